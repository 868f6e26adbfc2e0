//! One process of the system.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

/// Something that happened to the process with this index.
pub(crate) struct Event {
    pub(crate) process: usize,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// It wrote a line, on either stream.
    Line(Vec<u8>),
    /// It is gone; its last lines came before.
    Exit(ExitStatus),
}

/// How long the last lines of a process are waited for when it has exited but something that it
/// started still holds its output open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A process that was started.
pub(crate) struct Process {
    id: Pid,
    /// Set when it has exited.
    pub(crate) status: Option<ExitStatus>,
}

impl Process {
    /// Starts a process that tells what happens to it by `events`.
    pub(crate) fn start(
        index: usize,
        mut command: Command,
        events: Sender<Event>,
    ) -> io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C goes to the whole foreground group. In a group of its own the
            // process hears of it from us only, in the right order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let id = child
            .id()
            .expect("a child that was not waited for has an id");
        let id = Pid::from_raw(i32::try_from(id).expect("a process id fits"));
        tokio::spawn(watch(index, child, events));
        Ok(Self { id, status: None })
    }

    /// Asks it to stop, if it runs.
    pub(crate) fn ask_to_stop(&self) {
        if self.status.is_none() {
            ignore_gone(kill(self.id, Signal::SIGTERM));
        }
    }

    /// Ends it and whatever it started in its group, if it runs.
    pub(crate) fn kill(&self) {
        if self.status.is_none() {
            ignore_gone(killpg(self.id, Signal::SIGKILL));
        }
    }
}

/// A process may end at any time, and then cannot be signalled; nothing else can go wrong.
fn ignore_gone(result: nix::Result<()>) {
    debug_assert!(matches!(result, Ok(()) | Err(Errno::ESRCH)), "{result:?}");
}

async fn watch(process: usize, mut child: Child, events: Sender<Event>) {
    let stdout = child
        .stdout
        .take()
        .map(|pipe| lines(process, pipe, events.clone()));
    let stderr = child
        .stderr
        .take()
        .map(|pipe| lines(process, pipe, events.clone()));
    let output = async {
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            tokio::join!(stdout, stderr);
        }
    };
    let mut output = pin!(output);
    let status = tokio::select! {
        status = child.wait() => {
            // What cannot be read by then has another owner.
            let _ = timeout(LAST_WORDS, output).await;
            status
        }
        () = &mut output => child.wait().await,
    };
    let status = status.expect("a child can be waited for");
    send(&events, process, What::Exit(status)).await;
}

async fn lines(process: usize, pipe: impl AsyncRead + Unpin, events: Sender<Event>) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match pipe.read_until(b'\n', &mut line).await {
            Ok(count) if count > 0 => {}
            _ => return,
        }
        // The last line may have no end.
        line.pop_if(|last| *last == b'\n');
        send(&events, process, What::Line(line)).await;
    }
}

/// Nobody listens any more only when we are about to end, and then it does not matter.
async fn send(events: &Sender<Event>, process: usize, what: What) {
    let _ = events.send(Event { process, what }).await;
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn start(script: &str) -> (Process, mpsc::Receiver<Event>) {
        let (sender, events) = mpsc::channel(1);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        (Process::start(7, command, sender).unwrap(), events)
    }

    /// All lines until the exit, and the exit.
    async fn rest(events: &mut mpsc::Receiver<Event>) -> (Vec<String>, ExitStatus) {
        let mut lines = Vec::new();
        loop {
            let Event { process, what } = events.recv().await.expect("an exit comes last");
            assert_eq!(process, 7);
            match what {
                What::Line(line) => lines.push(String::from_utf8(line).unwrap()),
                What::Exit(status) => return (lines, status),
            }
        }
    }

    #[tokio::test]
    async fn lines_come_before_the_exit_and_the_last_needs_no_end() {
        let (_process, mut events) = start("echo one; echo; printf two; exit 3");
        let (lines, status) = rest(&mut events).await;
        assert_eq!(lines, ["one", "", "two"]);
        assert_eq!(status.code(), Some(3));
    }

    #[tokio::test]
    async fn standard_error_is_heard_too() {
        let (_process, mut events) = start("echo oh >&2");
        assert_eq!(rest(&mut events).await.0, ["oh"]);
    }

    #[tokio::test]
    async fn the_exit_is_told_even_if_something_else_holds_the_output_open() {
        let (_process, mut events) = start("sleep 600 & echo $!; exit 0");
        let (lines, status) = rest(&mut events).await;
        assert!(status.success());
        // It has outlived its parent, so it is ended here.
        let left = Pid::from_raw(lines[0].parse().unwrap());
        kill(left, Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_asked_to_stop_may_tidy_up() {
        let (process, mut events) =
            start("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        assert!(matches!(events.recv().await.unwrap().what, What::Line(line) if line == b"up"));
        process.ask_to_stop();
        let (lines, status) = rest(&mut events).await;
        assert_eq!(lines, ["bye"]);
        assert!(status.success());
    }

    #[tokio::test]
    async fn killing_ends_all_that_was_started_in_the_group() {
        let (process, mut events) = start("trap '' TERM; sleep 600 & echo $!; wait");
        let What::Line(line) = events.recv().await.unwrap().what else {
            panic!("no line")
        };
        let below = Pid::from_raw(String::from_utf8(line).unwrap().parse().unwrap());
        process.kill();
        let (_, status) = rest(&mut events).await;
        assert_eq!(status.code(), None);
        test_support::eventually(
            test_support::DEADLINE,
            "the end of the grandchild",
            async || {
                // Whoever adopted it may not have looked at it yet.
                let state = std::fs::read_to_string(format!("/proc/{below}/stat"));
                state
                    .map_or(true, |state| state.contains(") Z "))
                    .then_some(())
            },
        )
        .await;
    }
}
