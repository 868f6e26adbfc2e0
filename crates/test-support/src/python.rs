//! A foreign client: Python's.

use std::path::Path;
use std::process::Command;

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
    python_with(&project_root().join("deploy/nats-py.requirements.txt"))
}

/// A command for `python3` that can import the packages that a file pins with their hashes. They are
/// installed under the target folder the first time.
///
/// # Panics
///
/// When they cannot be installed.
#[must_use]
pub fn python_with(requirements: &Path) -> Command {
    try_python_with(requirements)
        .unwrap_or_else(|error| panic!("no packages of {}: {error:#}", requirements.display()))
}

/// The same, for a test that is skipped where the packages cannot be had.
///
/// # Errors
///
/// When they cannot be installed.
pub fn try_python_with(requirements: &Path) -> anyhow::Result<Command> {
    let packages = pip::install(requirements, &BuildDir::current().tools())?;
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages);
    Ok(python)
}
