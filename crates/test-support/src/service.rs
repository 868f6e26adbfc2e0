//! Our services as child processes.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::build_dir::{BuildDir, build_services};
use crate::child;
use crate::eventually::{DEADLINE, eventually};

/// The only variables that a service inherits from the test.
const INHERITED: [&str; 4] = ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE"];

/// Says how a [`Service`] should be started.
pub struct ServiceBuilder {
    name: String,
    command: Command,
    input: Option<Vec<u8>>,
}

impl ServiceBuilder {
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets variables, such as those of [`NatsServer::env_for`](crate::NatsServer::env_for).
    #[must_use]
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// What the service reads on its standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Starts the service.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Service {
        let stdin = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let process = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = process
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        if let (Some(input), Some(mut stdin)) = (self.input, process.stdin.take()) {
            // A service that exits before it has read everything breaks the pipe, which is its
            // right; so the thread says nothing of it.
            thread::spawn(move || stdin.write_all(&input));
        }
        let lines = Lines::default();
        let readers = [
            process
                .stdout
                .take()
                .map(|pipe| lines.clone().read_from(pipe, Stream::Stdout)),
            process
                .stderr
                .take()
                .map(|pipe| lines.clone().read_from(pipe, Stream::Stderr)),
        ];
        let readers = readers.into_iter().flatten().collect();
        Service {
            name: self.name,
            process,
            status: None,
            lines,
            readers,
        }
    }
}

/// A service, or another program, that runs as a child process, with what it printed so far.
///
/// It is killed when this is dropped; when a test panics, what it printed is shown.
pub struct Service {
    name: String,
    process: Child,
    /// Set once it was seen to have exited.
    status: Option<ExitStatus>,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Service {
    /// For one of our own services, see [`SERVICES`](crate::SERVICES), or the command line `jobs`. It
    /// is built if need be, and inherits nothing of the test's environment but `PATH`, `HOME` and the like.
    ///
    /// # Panics
    ///
    /// When there is no such service, or it cannot be built.
    #[must_use]
    pub fn named(name: &str) -> ServiceBuilder {
        static BINARIES: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
        // `cargo test` builds the binaries of the tested package only.
        let binaries = BINARIES.get_or_init(|| {
            build_services(&BuildDir::current(), Stdio::piped())
                .unwrap_or_else(|error| panic!("{error:#}"))
        });
        let path = binaries.get(name);
        Self::program(path.unwrap_or_else(|| panic!("there is no service {name}")))
    }

    /// For any other program, with the same care: an example, or `cargo xtask` itself.
    ///
    /// # Panics
    ///
    /// When the path has no last part.
    #[must_use]
    pub fn program(path: impl Into<PathBuf>) -> ServiceBuilder {
        let path = path.into();
        let name = path
            .file_name()
            .expect("a program has a name")
            .to_string_lossy()
            .into_owned();
        let mut command = Command::new(path);
        command.env_clear();
        command.envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, env::var_os(name)?))),
        );
        ServiceBuilder {
            name,
            command,
            input: None,
        }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it printed so far, in the order of arrival.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.lines.get().clone()
    }

    /// What it printed so far to standard output.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.of_stream(Stream::Stdout)
    }

    /// What it printed so far to standard error.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.of_stream(Stream::Stderr)
    }

    fn of_stream(&self, stream: Stream) -> Vec<String> {
        let lines = self.lines.get();
        lines
            .iter()
            .filter(|line| line.stream == stream)
            .map(|line| line.text.clone())
            .collect()
    }

    /// Waits for a line for which `wanted` holds, on either stream, and returns the first such. A
    /// line that was printed before counts.
    ///
    /// # Panics
    ///
    /// When none comes within [`DEADLINE`], or the service exits without one.
    pub async fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for_lines(1, wanted).await.remove(0)
    }

    /// Waits for `count` lines for which `wanted` holds, and returns the first so many.
    ///
    /// # Panics
    ///
    /// When they do not come within [`DEADLINE`], or the service exits without them.
    pub async fn wait_for_lines(
        &mut self,
        count: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let what = format!("{count} lines that were asked for, from {}", self.name);
        eventually(DEADLINE, &what, async || {
            // Asked before the lines are looked at: what it printed last is not missed.
            let all_read = self.readers.iter().all(JoinHandle::is_finished);
            let lines = self.lines.get();
            let found = lines
                .iter()
                .map(|line| &line.text)
                .filter(|text| wanted(text));
            let found: Vec<_> = found.take(count).cloned().collect();
            drop(lines);
            if found.len() == count {
                return Some(found);
            }
            assert!(!all_read, "{} ended without {what}", self.name);
            None
        })
        .await
    }

    /// Sends it a signal. One that has been waited for is left alone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            child::send(&self.process, signal);
        }
    }

    /// Stops it in its tracks: its connections stay open, and nothing answers.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn pause(&self) {
        child::pause(&self.process);
    }

    /// Lets it go on after a [`Service::pause`].
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn resume(&self) {
        child::resume(&self.process);
    }

    /// Waits until it has exited, and everything that it printed has been read.
    ///
    /// # Panics
    ///
    /// When it does not exit within [`DEADLINE`].
    pub async fn wait(&mut self) -> ExitStatus {
        self.wait_within(DEADLINE).await
    }

    /// Waits until it has exited, and everything that it printed has been read.
    ///
    /// # Panics
    ///
    /// When it does not exit within the deadline.
    pub async fn wait_within(&mut self, deadline: Duration) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let status = child::exit(&mut self.process, deadline, &self.name).await;
        self.status = Some(status);
        let what = format!("the end of what {} and its children print", self.name);
        eventually(DEADLINE, &what, async || {
            self.readers
                .iter()
                .all(JoinHandle::is_finished)
                .then_some(())
        })
        .await;
        status
    }

    /// How it has exited, if it has.
    ///
    /// # Panics
    ///
    /// When it cannot be waited for.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let status = self.process.try_wait();
            self.status = status.expect("a child can be waited for");
        }
        self.status
    }

    /// Kills it, as a crash would, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// When it cannot be waited for.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.status.is_none() {
            child::end(&mut self.process);
        }
        if thread::panicking() {
            eprintln!("--- what {} ({}) printed ---", self.name, self.process.id());
            for line in self.lines.get().iter() {
                eprintln!("{}", line.text);
            }
            eprintln!("--- end of it ---");
        }
    }
}

/// One line that a service printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where to.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

/// Where a line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The lines so far, shared with the threads that read them.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    fn get(&self) -> MutexGuard<'_, Vec<Line>> {
        // Lines are only ever added whole, so they are good even if somebody panicked meanwhile.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_from(self, pipe: impl Read + Send + 'static, stream: Stream) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while pipe
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&bytes);
                let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
                self.get().push(Line { stream, text });
                bytes.clear();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> ServiceBuilder {
        Service::program("/bin/sh").args(["-c", script])
    }

    fn on(stream: Stream, text: &str) -> Line {
        Line {
            stream,
            text: text.to_owned(),
        }
    }

    #[tokio::test]
    async fn what_it_prints_is_kept_with_the_stream_even_without_a_last_newline() {
        let mut service = shell("echo one; printf two >&2").start();
        assert!(service.wait().await.success());
        assert_eq!(service.stdout(), ["one"]);
        assert_eq!(service.stderr(), ["two"]);
        let lines = service.lines();
        assert!(lines.contains(&on(Stream::Stdout, "one")), "{lines:?}");
        assert!(lines.contains(&on(Stream::Stderr, "two")), "{lines:?}");
    }

    #[tokio::test]
    async fn a_line_is_found_whenever_it_was_printed() {
        let mut service = shell("echo one; echo two; read wait; echo three")
            .input("go\n")
            .start();
        assert_eq!(
            service.wait_for_line(|line| line.starts_with("th")).await,
            "three"
        );
        assert_eq!(
            service.wait_for_line(|line| line.starts_with('o')).await,
            "one"
        );
        assert_eq!(
            service
                .wait_for_lines(2, |line| line.starts_with('t'))
                .await,
            ["two", "three"]
        );
    }

    #[tokio::test]
    #[should_panic(expected = "sh ended without 1 lines")]
    async fn a_service_that_ends_is_not_waited_for() {
        shell("echo one")
            .start()
            .wait_for_line(|line| line == "two")
            .await;
    }

    #[tokio::test]
    async fn a_signal_reaches_it_and_the_exit_code_is_told() {
        let mut service =
            shell("trap 'exit 7' TERM; echo ready; while :; do read _ || sleep 0.01; done").start();
        service.wait_for_line(|line| line == "ready").await;
        service.signal(Signal::SIGTERM);
        assert_eq!(service.wait().await.code(), Some(7));
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for sh to exit")]
    async fn a_service_that_does_not_exit_in_time_fails_the_test() {
        shell("exec sleep 60")
            .start()
            .wait_within(Duration::from_millis(20))
            .await;
    }

    #[tokio::test]
    async fn nothing_of_the_environment_is_inherited_but_what_is_needed() {
        let mut service = shell("env").env("GIVEN", "yes").start();
        service.wait().await;
        let allowed = [
            "PATH",
            "HOME",
            "TMPDIR",
            "RUST_BACKTRACE",
            "GIVEN",
            "PWD",
            "SHLVL",
            "_",
            "OLDPWD",
        ];
        for line in service.stdout() {
            let name = line.split('=').next().unwrap_or_default();
            assert!(allowed.contains(&name), "{line}");
        }
        assert!(service.stdout().contains(&"GIVEN=yes".to_owned()));
    }

    #[tokio::test]
    async fn it_is_killed_when_it_is_dropped() {
        let service = shell("exec sleep 600").start();
        let id = i32::try_from(service.id()).unwrap();
        drop(service);
        let gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), None);
        assert_eq!(gone, Err(nix::errno::Errno::ESRCH));
    }
}
