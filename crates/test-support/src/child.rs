//! What is done with any child process.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::eventually::eventually;

/// Sends a signal to a child that has not been waited for.
pub(crate) fn send(child: &Child, signal: Signal) {
    kill(id(child), signal).expect("a child that was not waited for can be signalled");
}

/// Stops the child in its tracks, and returns when all its threads have come to a halt.
///
/// Without the wait, a thread on another core could still answer a message that was sent after the
/// signal.
pub(crate) fn pause(child: &Child) {
    send(child, Signal::SIGSTOP);
    let status = waitpid(id(child), Some(WaitPidFlag::WUNTRACED));
    assert!(
        matches!(status, Ok(WaitStatus::Stopped(..))),
        "a child that was to be paused did something else: {status:?}"
    );
}

/// Lets a paused child go on.
pub(crate) fn resume(child: &Child) {
    send(child, Signal::SIGCONT);
}

fn id(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"))
}

/// Waits for the child to exit.
///
/// # Panics
///
/// When it does not within the deadline.
pub(crate) async fn exit(child: &mut Child, deadline: Duration, name: &str) -> ExitStatus {
    let what = format!("{name} to exit");
    eventually(deadline, &what, async || {
        child.try_wait().expect("a child can be waited for")
    })
    .await
}

/// Ends the child, whatever it does, and waits for that.
pub(crate) fn end(child: &mut Child) {
    // It may have ended by itself, which is as good; and a destructor must not panic.
    let _ = child.kill();
    let _ = child.wait();
}
