//! Where cargo puts what it builds, and building our services there.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::cargo::cargo;
use crate::file_lock::file_lock;

/// The packages, and so the binaries, of the services.
pub const SERVICES: [&str; 4] = ["publisher", "consumer", "status-service", "gateway"];

/// The package of the command line, and its binary.
const COMMAND_LINE: (&str, &str) = ("cli", "jobs");

/// The root folder of this project's source.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "this crate lies where it lies")]
pub fn project_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .expect("a crate lies two levels below the root")
        .to_owned()
}

/// A place that cargo builds into: a target folder, and a profile in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildDir {
    /// The target folder itself.
    pub target: PathBuf,
    /// Set when cargo was told to build for a target by name.
    pub triple: Option<String>,
    /// As `cargo build --profile` takes it.
    pub profile: String,
}

impl BuildDir {
    /// The place that the running executable was built into, so that what is built for it uses the
    /// same profile and the same folder.
    #[must_use]
    pub fn current() -> Self {
        env::current_exe()
            .ok()
            .and_then(|exe| Self::of_executable(&exe))
            .unwrap_or_else(|| Self {
                target: project_root().join("target"),
                triple: None,
                profile: "dev".to_owned(),
            })
    }

    /// The same place, with another profile.
    #[must_use]
    pub fn with_profile(self, profile: &str) -> Self {
        Self {
            profile: profile.to_owned(),
            ..self
        }
    }

    /// The folder for programs that our tools install for themselves.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Cargo marks the root of a target folder with `CACHEDIR.TAG`; below it lies
    /// `[triple/]profile/[deps/ or examples/]executable`.
    fn of_executable(exe: &Path) -> Option<Self> {
        let target = exe
            .ancestors()
            .skip(1)
            .find(|dir| dir.join("CACHEDIR.TAG").is_file())?;
        let mut between: Vec<&str> = exe
            .parent()?
            .strip_prefix(target)
            .ok()?
            .iter()
            .map(|it| it.to_str())
            .collect::<Option<_>>()?;
        between.pop_if(|last| ["deps", "examples"].contains(last));
        let (triple, profile) = match between[..] {
            [profile] => (None, profile),
            [triple, profile] => (Some(triple.to_owned()), profile),
            _ => return None,
        };
        // The profile `dev` is the one whose folder has another name.
        let profile = if profile == "debug" { "dev" } else { profile };
        Some(Self {
            target: target.to_owned(),
            triple,
            profile: profile.to_owned(),
        })
    }
}

/// Builds the binaries of all services and of the command line `jobs` into `into`, and returns the
/// path of each by its name.
///
/// What cargo says on the way goes to `progress`; on failure its last words are part of the error
/// only if they were not shown.
///
/// # Errors
///
/// When cargo cannot be started, or the build fails.
pub fn build_services(
    into: &BuildDir,
    progress: Stdio,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    // Cargo takes a lock of its own, but lets go of it before the binaries have been read: two
    // builds with different features would replace each other's files meanwhile.
    let _lock = file_lock(&into.tools().join("services.lock"))?;
    let mut cargo = cargo();
    cargo
        .args([
            "build",
            "--locked",
            "--bins",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--profile", &into.profile])
        .arg("--target-dir")
        .arg(&into.target)
        .stdout(Stdio::piped())
        .stderr(progress);
    let (command_line, jobs) = COMMAND_LINE;
    for package in SERVICES.into_iter().chain([command_line]) {
        cargo.args(["--package", &package_of(package)]);
    }
    if let Some(triple) = &into.triple {
        cargo.args(["--target", triple]);
    }
    let output = cargo
        .spawn()
        .and_then(std::process::Child::wait_with_output);
    let output = output.context("cannot start cargo to build the services")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("building the services failed ({})\n{words}", output.status);
    }
    let binaries: BTreeMap<_, _> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(binary_in_message)
        .collect();
    for binary in SERVICES.into_iter().chain([jobs]) {
        if !binaries.contains_key(binary) {
            bail!("no package has the binary {binary}");
        }
    }
    Ok(binaries)
}

/// The crates that users depend on. Their packages have a prefix.
const PUBLISHED: [&str; 7] = [
    "common",
    "connection",
    "jetstream",
    "client",
    "bootstrap",
    "worker",
    "consumer",
];

/// The package of a crate, by the name of its folder.
#[must_use]
pub fn package_of(folder: &str) -> String {
    if PUBLISHED.contains(&folder) {
        format!("nats-jobs-{folder}")
    } else {
        folder.to_owned()
    }
}

/// Name and path of the binary that one message of cargo speaks of, if it speaks of one.
fn binary_in_message(message: &[u8]) -> Option<(String, PathBuf)> {
    #[derive(Deserialize)]
    struct Message {
        target: Target,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let message: Message = serde_json::from_slice(message).ok()?;
    Some((message.target.name, message.executable?))
}

/// The program of an example. Cargo builds the examples of a package together with its tests, unless it
/// was told to build one test only; for the tests of another package it is built, or brought up to date,
/// here, as cargo builds it for the tests of the workspace: so it is there already when all of them are run.
///
/// # Panics
/// When it is not there and cannot be built.
#[must_use]
pub fn example(package: &str, name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test is a file");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("it lies in target/<profile>/deps");
    let path = profile.join("examples").join(name);
    // Cargo sets it for the tests that it runs.
    let tested = env::var("CARGO_PKG_NAME").ok();
    let is_own = tested.is_some_and(|tested| tested == package_of(package));
    if !is_own || !path.is_file() {
        let built = BuildDir::current();
        let status = cargo()
            .args(["build", "--locked", "--workspace", "--example", name])
            .args(["--profile", &built.profile])
            .arg("--target-dir")
            .arg(&built.target)
            .args(built.triple.iter().flat_map(|triple| ["--target", triple]))
            .status()
            .expect("cargo can be started");
        assert!(status.success(), "the example cannot be built");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_dir_is_read_off_the_path_of_an_executable() {
        let target = tempfile::tempdir().unwrap();
        std::fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
        let read = |path: &str| {
            let dir = BuildDir::of_executable(&target.path().join(path))?;
            assert_eq!(dir.target, target.path());
            Some((dir.triple, dir.profile))
        };
        let plain = |profile: &str| Some((None, profile.to_owned()));
        assert_eq!(read("debug/deps/system-0f"), plain("dev"));
        assert_eq!(read("release/xtask"), plain("release"));
        assert_eq!(read("ci/examples/thumbnails"), plain("ci"));
        assert_eq!(
            read("x86_64-unknown-linux-musl/debug/deps/system-0f"),
            Some((
                Some("x86_64-unknown-linux-musl".to_owned()),
                "dev".to_owned()
            ))
        );
        assert_eq!(read("doctest"), None);
    }

    #[test]
    fn an_executable_outside_a_target_folder_has_no_build_dir() {
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(
            BuildDir::of_executable(&elsewhere.path().join("debug/xtask")),
            None
        );
    }

    #[test]
    fn only_messages_about_executables_name_a_binary() {
        let binary = br#"{"reason":"compiler-artifact","target":{"name":"consumer"},"executable":"/t/consumer"}"#;
        let library =
            br#"{"reason":"compiler-artifact","target":{"name":"consumer"},"executable":null}"#;
        let end = br#"{"reason":"build-finished","success":true}"#;
        assert_eq!(
            binary_in_message(binary),
            Some(("consumer".to_owned(), "/t/consumer".into()))
        );
        assert_eq!(binary_in_message(library), None);
        assert_eq!(binary_in_message(end), None);
    }

    #[test]
    fn the_project_root_holds_the_workspace() {
        assert!(
            project_root()
                .join("crates/test-support/Cargo.toml")
                .is_file()
        );
    }
}
