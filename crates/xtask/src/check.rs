//! `cargo xtask test`: every check of the project.

use std::borrow::Cow;
use std::fmt;
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

    /// Only compile the tests
    #[arg(long)]
    compile: bool,
}

/// One check, done by cargo.
struct Step {
    name: &'static str,
    /// Without quotes: the words stand between blanks.
    arguments: Cow<'static, str>,
    /// A variable of the environment, and its value.
    variable: Option<(&'static str, &'static str)>,
}

impl Step {
    fn new(name: &'static str, arguments: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name,
            arguments: arguments.into(),
            variable: None,
        }
    }

    fn run(&self) -> anyhow::Result<()> {
        let mut command = cargo();
        command.args(self.arguments.split(' '));
        if let Some((name, value)) = self.variable {
            command.env(name, value);
        }
        let status = command.status().context("cannot start cargo")?;
        if !status.success() {
            bail!("the check of {} failed ({status}): {self}", self.name);
        }
        Ok(())
    }
}

/// The command as one would type it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, value)) = self.variable {
            write!(f, "{name}='{value}' ")?;
        }
        write!(f, "cargo {}", self.arguments)
    }
}

/// Tests that need a feature are left out without a word where it is off. These features are on anyway, as long as
/// this package needs them too, so naming them rebuilds nothing.
const TESTS: &str = "test --workspace --locked --features nats-jobs-client/opentelemetry,nats-jobs-consumer/testing";

/// How many tests run at a time where there are fewer processors: most tests wait for servers and for times.
const TEST_THREADS: (usize, &str) = (6, "6");

/// What this machine has, beyond what every check needs.
struct Tools {
    deny: bool,
    advisories: bool,
    /// Or why the containers cannot be tested.
    compose: Result<(), &'static str>,
}

impl Tools {
    fn of_this_machine() -> Self {
        let docker = |arguments: &[&str]| answers(Command::new("docker").args(arguments));
        let compose = if !docker(&["info"]) {
            Err("docker does not answer")
        } else if answers(Command::new("docker-compose").arg("version"))
            || docker(&["compose", "version"])
        {
            Ok(())
        } else {
            Err("docker-compose is not installed")
        };
        let deny = answers(cargo().args(["deny", "--version"]));
        Self {
            deny,
            advisories: deny && answers(cargo().args(["deny", "--locked", "fetch", "db"])),
            compose,
        }
    }
}

/// The steps in their order, and what is left out and why.
fn plan(tools: &Tools) -> (Vec<Step>, Vec<String>) {
    let mut skipped = Vec::new();
    let mut steps = vec![
        Step::new("formatting", "fmt --all --check"),
        Step::new(
            "lints",
            "clippy --workspace --all-targets --locked -- -D warnings",
        ),
        Step {
            variable: Some(("RUSTDOCFLAGS", "-D warnings")),
            ..Step::new("documentation", "doc --workspace --no-deps --locked")
        },
        Step::new(
            "the message crate alone",
            "build --locked --package nats-jobs-common",
        ),
    ];
    // A workspace of its own, whose dependencies are not those of anything else.
    steps.push(Step::new(
        "the formatting of the model of the protocol",
        "fmt --check --manifest-path crates/xtask/tests/model/Cargo.toml",
    ));
    steps.push(Step::new(
        "the lints of the model of the protocol",
        "clippy --all-targets --locked --manifest-path crates/xtask/tests/model/Cargo.toml --target-dir target/model \
         -- -D warnings",
    ));
    steps.push(Step::new(
        "the model of the protocol",
        "test --locked --manifest-path crates/xtask/tests/model/Cargo.toml --target-dir target/model",
    ));
    // Changes that are not committed yet are no reason to stop here. To build each package from its own
    // files would take as long as all tests.
    steps.push(Step::new(
        "the packages that users depend on",
        "package --locked --allow-dirty --no-verify --package nats-jobs-common --package nats-jobs-connection \
         --package nats-jobs-schedule --package nats-jobs-jetstream --package nats-jobs-client --package nats-jobs-bootstrap \
         --package nats-jobs-worker --package nats-jobs-consumer",
    ));
    if tools.deny {
        steps.push(Step::new(
            "dependencies",
            "deny --locked check --allow unused-wrapper bans licenses sources",
        ));
    } else {
        skipped.push("dependencies, as cargo-deny is not installed".to_owned());
    }
    if tools.advisories {
        steps.push(Step::new(
            "advisories",
            "deny --locked check --disable-fetch advisories",
        ));
    } else if tools.deny {
        skipped.push("advisories, as their database cannot be fetched".to_owned());
    }
    // A failure does not hide those of the test programs behind it.
    let (least, threads) = TEST_THREADS;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    steps.push(Step {
        variable: (processors < least).then_some(("RUST_TEST_THREADS", threads)),
        ..Step::new("tests", format!("{TESTS} --no-fail-fast"))
    });
    match tools.compose {
        // The same packages and features, so nothing is compiled again.
        Ok(()) => steps.push(Step::new(
            "containers",
            format!("{TESTS} --test compose -- --ignored"),
        )),
        Err(why) => skipped.push(format!("containers, as {why}")),
    }
    (steps, skipped)
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if self.compile {
            let step = Step::new("the tests' code", format!("{TESTS} --no-run"));
            step.run()?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut tools = Tools::of_this_machine();
        if self.skip_compose {
            tools.compose = Err("--skip-compose was given");
        }
        let (steps, skipped) = plan(&tools);
        // Said before, because the last words of all belong to the tests.
        for line in skipped {
            headline(&format!("NOT CHECKED: {line}"))?;
        }
        let count = steps.len();
        for (index, step) in steps.iter().enumerate() {
            let number = index + 1;
            headline(&format!("[{number}/{count}] {}: {step}", step.name))?;
            let start = Instant::now();
            step.run()?;
            if number < count {
                writeln!(io::stdout(), "ok, {:.1} s", start.elapsed().as_secs_f64())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_all_tools_everything_is_checked_and_the_containers_come_last() {
        let tools = Tools {
            deny: true,
            advisories: true,
            compose: Ok(()),
        };
        let (steps, skipped) = plan(&tools);
        assert_eq!(skipped, Vec::<String>::new());
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        assert_eq!(
            names[names.len() - 4..],
            ["dependencies", "advisories", "tests", "containers"]
        );
    }

    #[test]
    fn without_a_tool_the_rest_is_checked_and_what_is_missing_is_said() {
        let tools = Tools {
            deny: false,
            advisories: false,
            compose: Err("docker does not answer"),
        };
        let (steps, skipped) = plan(&tools);
        assert_eq!(
            skipped,
            [
                "dependencies, as cargo-deny is not installed",
                "containers, as docker does not answer"
            ]
        );
        assert_eq!(steps.last().map(|step| step.name), Some("tests"));
    }

    #[test]
    fn every_feature_that_a_test_needs_is_on_in_the_tests() {
        let metadata = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output();
        let metadata: serde_json::Value =
            serde_json::from_slice(&metadata.unwrap().stdout).unwrap();
        let list = |of: &serde_json::Value| of.as_array().cloned().unwrap_or_default();
        let mut needed = Vec::new();
        for package in list(&metadata["packages"]) {
            for target in list(&package["targets"]) {
                for feature in list(&target["required-features"]) {
                    let (package, feature) = (package["name"].as_str(), feature.as_str());
                    needed.push(format!("{}/{}", package.unwrap(), feature.unwrap()));
                }
            }
        }
        assert!(!needed.is_empty(), "cargo names no such test any more");
        let (_, features) = TESTS.split_once("--features ").unwrap();
        let features: Vec<_> = features.split(',').collect();
        for feature in needed {
            assert!(features.contains(&feature.as_str()), "{feature}");
        }
    }

    #[test]
    fn a_step_reads_as_one_would_type_it() {
        let step = Step {
            variable: Some(("RUSTDOCFLAGS", "-D warnings")),
            ..Step::new("documentation", "doc --workspace")
        };
        assert_eq!(
            step.to_string(),
            "RUSTDOCFLAGS='-D warnings' cargo doc --workspace"
        );
    }
}
