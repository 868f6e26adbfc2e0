//! Installing pinned Python packages for our own use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::file_lock::file_lock;

/// Installs the one package that `requirements` pins below `tools`, unless it is there already, and
/// returns its folder.
///
/// Any number of processes may ask at once: one installs, the others wait for it. The package
/// appears whole or not at all.
///
/// # Errors
///
/// When Python or pip is missing, or pip cannot get a file with one of the pinned hashes.
pub(crate) fn install(requirements: &Path, tools: &Path) -> anyhow::Result<PathBuf> {
    let text = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let package = pinned_package(&text).with_context(|| {
        format!(
            "{} pins no package as name==version",
            requirements.display()
        )
    })?;
    let home = tools.join(&package);
    if home.exists() {
        return Ok(home);
    }
    let _lock = file_lock(&tools.join(format!("{package}.lock")))?;
    if home.exists() {
        return Ok(home);
    }
    let scratch = tempfile::Builder::new()
        .prefix(&format!(".{package}-"))
        .tempdir_in(tools)
        .with_context(|| format!("cannot create a folder in {}", tools.display()))?;
    let installed = scratch.path().join("installed");
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args([
            "--no-input",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
        ])
        .arg("--requirement")
        .arg(requirements)
        .arg("--target")
        .arg(&installed)
        // A caller whose pip installs per user by default could not install into a folder.
        .env("PIP_USER", "0")
        .stdin(Stdio::null())
        .output()
        .context("cannot start python3")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!(
            "pip could not install {package} ({}): {}",
            output.status,
            words.trim()
        );
    }
    fs::rename(&installed, &home)
        .with_context(|| format!("cannot move {package} to {}", home.display()))?;
    Ok(home)
}

/// `name-version` of the first requirement.
fn pinned_package(requirements: &str) -> Option<String> {
    requirements
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let (name, rest) = line.split_once("==")?;
            let version = rest.split([' ', ';', '\\']).next()?;
            Some(format!("{}-{}", name.trim(), version.trim()))
        })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::build_dir::project_root;

    #[test]
    fn the_package_is_the_first_that_is_pinned() {
        let file = "# a == b\n\nnats-py==2.16.0 \\\n    --hash=sha256:00\n";
        assert_eq!(pinned_package(file).as_deref(), Some("nats-py-2.16.0"));
        assert_eq!(pinned_package("nats-py>=2\n"), None);
    }

    #[test]
    fn an_installed_package_is_not_installed_again() {
        let tools = tempfile::tempdir().unwrap();
        let requirements = tools.path().join("requirements.txt");
        fs::write(&requirements, "nats-py==2.16.0\n").unwrap();
        let home = tools.path().join("nats-py-2.16.0");
        fs::create_dir(&home).unwrap();
        assert_eq!(install(&requirements, tools.path()).unwrap(), home);
    }

    #[test]
    fn many_who_ask_at_once_get_one_whole_package() {
        let tools = tempfile::tempdir().unwrap();
        let requirements = project_root().join("deploy/nats-py.requirements.txt");
        thread::scope(|scope| {
            let ask = || {
                let home = install(&requirements, tools.path()).unwrap();
                assert!(home.join("nats/__init__.py").is_file());
            };
            for _ in 0..4 {
                scope.spawn(ask);
            }
        });
        let left = fs::read_dir(tools.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["nats-py-2.16.0", "nats-py-2.16.0.lock"]);
    }

    #[test]
    fn a_package_without_a_hash_is_refused_and_leaves_nothing_behind() {
        let tools = tempfile::tempdir().unwrap();
        let requirements = tools.path().join("requirements.txt");
        fs::write(&requirements, "nats-py==2.16.0\n").unwrap();
        let error = format!("{:#}", install(&requirements, tools.path()).unwrap_err());
        assert!(
            error.contains("could not install nats-py-2.16.0"),
            "{error}"
        );
        assert!(error.to_lowercase().contains("hash"), "{error}");
        assert!(!tools.path().join("nats-py-2.16.0").exists());
    }

    #[test]
    fn a_missing_requirements_file_is_named() {
        let tools = tempfile::tempdir().unwrap();
        let error = install(&tools.path().join("none.txt"), tools.path()).unwrap_err();
        assert!(format!("{error:#}").contains("none.txt"), "{error:#}");
    }
}
