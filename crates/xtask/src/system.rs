//! All processes of the system, and what they have to say.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, timeout_at};

use crate::printer::Printer;
use crate::process::{Event, Process, What};

/// What made [`System::turn`] return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A process wrote a line or ended; that is printed.
    Event,
    /// Somebody wants us to stop.
    Interrupt,
    /// Nobody reads what we print any more.
    Unread,
}

/// The processes of the system, by index in the order of their names.
pub(crate) struct System {
    names: Vec<String>,
    processes: Vec<Process>,
    printer: Printer<io::Stdout>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    interrupts: [Signal; 3],
    /// Once printing failed it is not tried again.
    unread: bool,
}

impl System {
    /// A system without processes yet; from now on signals do not end this process by themselves.
    pub(crate) fn new(names: Vec<String>) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        // SIGHUP comes when the terminal is closed.
        let interrupts = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ];
        // A terminal that is slow, or halted, slows the processes down; lines do not pile up here.
        let (sender, events) = mpsc::channel(1024);
        let printer = Printer::to_stdout(&names);
        Ok(Self {
            names,
            processes: Vec::new(),
            printer,
            sender,
            events,
            interrupts,
            unread: false,
        })
    }

    /// Starts the next process in the order of the names.
    pub(crate) fn start(&mut self, command: Command) -> anyhow::Result<()> {
        let index = self.processes.len();
        let process = Process::start(index, command, self.sender.clone())
            .with_context(|| format!("cannot start {}", self.names[index]))?;
        self.processes.push(process);
        Ok(())
    }

    /// The exit status of a process that has ended.
    pub(crate) fn status(&self, process: usize) -> Option<ExitStatus> {
        self.processes[process].status
    }

    pub(crate) fn any_runs(&self, processes: impl IntoIterator<Item = usize>) -> bool {
        processes
            .into_iter()
            .any(|process| self.status(process).is_none())
    }

    pub(crate) fn all_succeeded(&self) -> bool {
        self.processes
            .iter()
            .all(|process| process.status.is_some_and(|status| status.success()))
    }

    /// Waits for the next thing to happen, and prints it. May be dropped half-way.
    pub(crate) async fn turn(&mut self) -> Turn {
        let [interrupt, terminate, hangup] = &mut self.interrupts;
        let event = tokio::select! {
            _ = interrupt.recv() => return Turn::Interrupt,
            _ = terminate.recv() => return Turn::Interrupt,
            _ = hangup.recv() => return Turn::Interrupt,
            event = self.events.recv() => event.expect("this struct holds a sender itself"),
        };
        let Event { process, what } = event;
        match what {
            What::Line(line) => self.print(|printer| printer.line(process, &line)),
            What::Exit(status) => {
                self.processes[process].status = Some(status);
                let line = format!("{} {}", self.names[process], describe(status));
                self.say(&line);
            }
        }
        if self.unread {
            Turn::Unread
        } else {
            Turn::Event
        }
    }

    /// Prints a line of our own.
    pub(crate) fn say(&mut self, line: &str) {
        self.print(|printer| printer.say(line));
    }

    fn print(&mut self, print: impl FnOnce(&mut Printer<io::Stdout>) -> io::Result<()>) {
        if !self.unread {
            self.unread = print(&mut self.printer).is_err();
        }
    }

    /// Asks processes to stop, and waits until they have. Those that do not in time are killed.
    ///
    /// An interrupt ends the patience: true if one came.
    pub(crate) async fn stop(
        &mut self,
        processes: impl IntoIterator<Item = usize> + Clone,
        grace: Duration,
    ) -> bool {
        for process in processes.clone() {
            self.processes[process].ask_to_stop();
        }
        let deadline = Instant::now() + grace;
        let mut interrupted = false;
        // The time is looked at as well: one that never falls silent always has an event ready.
        while self.any_runs(processes.clone()) && !interrupted && Instant::now() < deadline {
            interrupted = timeout_at(deadline, self.turn()).await == Ok(Turn::Interrupt);
        }
        for process in processes.clone() {
            if self.status(process).is_none() {
                self.say(&format!(
                    "killing {}, which has not stopped",
                    self.names[process]
                ));
                self.processes[process].kill();
            }
        }
        // Nothing survives SIGKILL, so this ends.
        while self.any_runs(processes.clone()) {
            self.turn().await;
        }
        interrupted
    }
}

/// As compose says it.
fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exited with code {code}"),
        None => format!("ended by {status}"),
    }
}
