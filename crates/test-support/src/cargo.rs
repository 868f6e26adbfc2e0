//! Calling cargo from a program that cargo started.

use std::env;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::build_dir::project_root;

/// The cargo that started this process, or the one on `PATH`, to be run in the root of the project.
///
/// Cargo tells each program that it starts which package it belongs to. A second cargo that inherits
/// this would find the build scripts' environment changed, and build anew all that depends on one of
/// those that look at it.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(project_root()).stdin(Stdio::null());
    for (variable, _) in env::vars_os() {
        let name = variable.as_encoded_bytes();
        if name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_") {
            cargo.env_remove(variable);
        }
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_cargo_does_not_hear_of_this_package() {
        assert!(
            env::var_os("CARGO_PKG_NAME").is_some(),
            "cargo does not tell it any more"
        );
        let cargo = cargo();
        let removed = |name: &str| cargo.get_envs().any(|it| it == (name.as_ref(), None));
        assert!(removed("CARGO_PKG_NAME"));
        assert!(removed("CARGO_MANIFEST_DIR"));
        assert!(!removed("PATH"));
    }
}
