//! A nats-server for one test.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::time::Instant;

/// The name of the program.
const PROGRAM: &str = "nats-server";

/// The variable that names another one.
const VARIABLE: &str = "NATS_SERVER";

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);

/// How often is looked whether it has started.
const LOOK: Duration = Duration::from_millis(10);

/// A nats-server on a free port of the loopback interface, with a store in a temporary folder. It is
/// killed, and its files are removed, when this is dropped.
pub(super) struct Server {
    process: Child,
    /// Where clients connect to.
    url: String,
    /// Its files, removed after the process has ended.
    home: TempDir,
}

impl Server {
    /// Starts it, and waits until it accepts connections.
    ///
    /// # Errors
    /// When the program cannot be started, or ends, or does not listen in time. The error has its log.
    pub(super) async fn start(program: &Path) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("jobs-test-").tempdir();
        let home = home.context("cannot create a temporary folder")?;
        let path = |name: &str| home.path().join(name);
        let store = serde_json::to_string(&path("store"))?;
        // The server picks a free port. Nothing here has to survive a power cut, so writes are not synced.
        let configuration = format!(
            "server_name: test\nlisten: \"127.0.0.1:-1\"\n\
             jetstream {{ store_dir: {store}, max_file_store: 8GB }}\n"
        );
        fs::write(path("nats.conf"), configuration)?;
        let log = File::create(path("log"))?;
        let ports = path("ports");
        fs::create_dir(&ports)?;
        let process = Command::new(program)
            .arg("--config")
            .arg(path("nats.conf"))
            .arg("--ports_file_dir")
            .arg(&ports)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = process.with_context(|| format!("cannot start {}", program.display()))?;
        // From here on it is killed whatever happens.
        let mut server = Self {
            process,
            url: String::new(),
            home,
        };
        let until = Instant::now() + START;
        loop {
            if let Some(url) = read_url(&ports) {
                server.url = url;
                return Ok(server);
            }
            let ended = server.process.try_wait()?;
            if ended.is_some() || Instant::now() >= until {
                let log = fs::read_to_string(server.home.path().join("log")).unwrap_or_default();
                let what = ended.map_or_else(
                    || format!("does not listen after {START:?}"),
                    |status| format!("has ended ({status})"),
                );
                bail!("{} {what}:\n{log}", program.display());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Where clients connect to.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The URL for clients in the file that the server writes into the folder; `None` as long as the file is
/// not complete.
fn read_url(folder: &Path) -> Option<String> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let file = fs::read(entry.path()).ok()?;
        let ports: serde_json::Value = serde_json::from_slice(&file).ok()?;
        ports["nats"][0].as_str().map(ToOwned::to_owned)
    })
}

/// The program that `NATS_SERVER` names, or the one in `PATH`.
///
/// # Errors
/// When there is none; the error says what to do.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    let named = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    find(named.as_deref(), env::var_os("PATH").as_deref())
}

fn find(named: Option<&OsStr>, search_path: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        let named = PathBuf::from(named);
        if !named.is_file() {
            bail!("{VARIABLE} names {}, which is no file", named.display());
        }
        return Ok(named);
    }
    let folders = search_path.into_iter().flat_map(env::split_paths);
    let mut candidates = folders.map(|folder| folder.join(PROGRAM));
    candidates.find(|path| path.is_file()).with_context(|| {
        format!(
            "no {PROGRAM}: PATH has none, and {VARIABLE} is not set; install {PROGRAM} 2.15 or newer, \
             or set {VARIABLE} to its path"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_server_comes_before_that_of_the_search_path_and_none_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let (named, found) = (folder.path().join("mine"), folder.path().join(PROGRAM));
        for path in [&named, &found] {
            File::create(path).unwrap();
        }
        let search = env::join_paths([Path::new("/does/not/exist"), folder.path()]).unwrap();
        let search = Some(search.as_os_str());
        assert_eq!(find(Some(named.as_os_str()), search).unwrap(), named);
        assert_eq!(find(None, search).unwrap(), found);
        let error = find(None, None).unwrap_err().to_string();
        assert!(error.contains("set NATS_SERVER"), "{error}");
        let error = find(Some(OsStr::new("/does/not/exist")), search).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_ends_is_an_error_and_not_waited_for() {
        let error = Server::start(Path::new("/bin/false")).await.err().unwrap();
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
