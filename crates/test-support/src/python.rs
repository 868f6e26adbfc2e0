//! A foreign client: Python's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::build_dir::{BuildDir, project_root};
use crate::pip;

/// A command for `python3` that can import `nats`, the Python client.
///
/// The package is installed under the target folder the first time, at the version and hash that
/// `deploy/nats-py.requirements.txt` pins.
///
/// # Panics
///
/// When the package cannot be installed.
#[must_use]
pub fn python() -> Command {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    let package = PACKAGE.get_or_init(|| {
        let requirements = project_root().join("deploy/nats-py.requirements.txt");
        pip::install(&requirements, &BuildDir::current().tools())
            .unwrap_or_else(|error| panic!("no Python client for NATS: {error:#}"))
    });
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", package);
    python
}

/// A command for `python3` that can import the packages that a file pins with their hashes. They are
/// installed under the target folder the first time.
///
/// # Panics
///
/// When they cannot be installed.
#[must_use]
pub fn python_with(requirements: &Path) -> Command {
    let packages = pip::install(requirements, &BuildDir::current().tools())
        .unwrap_or_else(|error| panic!("no packages of {}: {error:#}", requirements.display()));
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages);
    python
}
