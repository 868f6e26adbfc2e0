//! `cargo xtask test`: every check of the project.

use std::io::{self, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use test_support::cargo;

/// Run every check of the project, and stop at the first that fails
///
/// Formatting, lints, documentation, the message crate alone, dependencies (if cargo-deny is
/// installed), all tests, and at last the test of the containers (if docker and docker-compose are
/// there). What is not checked is said.
#[derive(Args)]
pub(crate) struct Test {
    /// Leave out the test that builds and starts the containers
    #[arg(long)]
    skip_compose: bool,
}

/// One check.
struct Step {
    name: &'static str,
    command: Command,
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let (steps, skipped) = self.plan();
        // Said before, because the last words of all belong to the tests.
        for line in skipped {
            headline(&format!("NOT CHECKED: {line}"))?;
        }
        let count = steps.len();
        for (index, step) in steps.into_iter().enumerate() {
            let number = index + 1;
            headline(&format!("[{number}/{count}] {}", step.name))?;
            let start = Instant::now();
            run(step)?;
            if number < count {
                writeln!(io::stdout(), "ok, {:.1} s", start.elapsed().as_secs_f64())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The steps in their order, and what is left out and why.
    fn plan(&self) -> (Vec<Step>, Vec<String>) {
        let mut skipped = Vec::new();
        let mut steps = vec![
            step("formatting", &["fmt", "--all", "--check"]),
            step(
                "lints",
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ],
            ),
            documentation(),
            step(
                "the message crate alone",
                &["build", "--locked", "--package", "common"],
            ),
        ];
        if answers(cargo().args(["deny", "--version"])) {
            steps.push(step(
                "dependencies: bans, licenses, sources",
                &[
                    "deny",
                    "--locked",
                    "check",
                    "--allow",
                    "unused-wrapper",
                    "bans",
                    "licenses",
                    "sources",
                ],
            ));
            if answers(cargo().args(["deny", "--locked", "fetch", "db"])) {
                steps.push(step(
                    "dependencies: advisories",
                    &["deny", "--locked", "check", "--disable-fetch", "advisories"],
                ));
            } else {
                skipped.push("advisories, as their database cannot be fetched".to_owned());
            }
        } else {
            skipped.push("dependencies, as cargo-deny is not installed".to_owned());
        }
        steps.push(step("tests", &["test", "--workspace", "--locked"]));
        match self.compose_is_missing() {
            None => steps.push(step(
                "containers",
                &[
                    "test",
                    "--locked",
                    "--package",
                    "xtask",
                    "--test",
                    "compose",
                    "--",
                    "--ignored",
                ],
            )),
            Some(why) => skipped.push(format!("containers, as {why}")),
        }
        (steps, skipped)
    }

    fn compose_is_missing(&self) -> Option<&'static str> {
        if self.skip_compose {
            Some("--skip-compose was given")
        } else if !answers(Command::new("docker").arg("info")) {
            Some("docker does not answer")
        } else if !answers(Command::new("docker-compose").arg("version"))
            && !answers(Command::new("docker").args(["compose", "version"]))
        {
            Some("docker-compose is not installed")
        } else {
            None
        }
    }
}

fn documentation() -> Step {
    let mut step = step(
        "documentation",
        &["doc", "--workspace", "--no-deps", "--locked"],
    );
    step.command.env("RUSTDOCFLAGS", "-D warnings");
    step
}

fn step(name: &'static str, arguments: &[&str]) -> Step {
    let mut command = cargo();
    command.args(arguments);
    Step { name, command }
}

fn run(mut step: Step) -> anyhow::Result<()> {
    let status = step
        .command
        .status()
        .with_context(|| format!("cannot start {:?}", step.command))?;
    if !status.success() {
        bail!(
            "the check of {} failed ({status}): {:?}",
            step.name,
            step.command
        );
    }
    Ok(())
}

/// Whether a program is there and does what it is asked.
fn answers(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn headline(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "\n=== {text}")?;
    // The step writes to the same place by itself.
    out.flush()
}
