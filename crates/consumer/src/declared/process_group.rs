use std::io;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

/// A program and the processes that it starts, except those that leave its process group.
///
/// Dropping this value kills all of them. The leader is reaped only after the group was killed:
/// until then the system cannot reuse its process id, which is also the id of the group.
pub(super) struct ProcessGroup {
    leader: Child,
}

impl ProcessGroup {
    /// Starts a program as the leader of a new process group.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let leader = command.process_group(0).kill_on_drop(true).spawn()?;
        Ok(Self { leader })
    }

    /// The leader's pipes: standard input, output and error; `None` if not piped or taken before.
    pub(super) fn take_pipes(
        &mut self,
    ) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (
            self.leader.stdin.take(),
            self.leader.stdout.take(),
            self.leader.stderr.take(),
        )
    }

    /// Returns when the leader has exited. Does not reap it.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub(super) async fn leader_exited(&self) -> io::Result<()> {
        // Before the first `waitid`, so that no exit is missed in between.
        let mut exits = signal(SignalKind::child())?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while let Some(leader) = self.id()
            && waitid(WaitId::Pid(leader), options)?.is_none()
        {
            exits.recv().await;
        }
        Ok(())
    }

    /// Kills every process of the group.
    pub(super) fn kill(&self) {
        if let Some(id) = self.id() {
            // An error means that all of them have exited.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }

    /// Kills what is left of the group, and reaps the leader.
    ///
    /// # Errors
    /// When the leader cannot be waited for.
    pub(super) async fn end(mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.leader.wait().await
    }

    /// `None` once the leader was reaped.
    fn id(&self) -> Option<Pid> {
        self.leader
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // The runtime reaps the leader.
        self.kill();
    }
}
