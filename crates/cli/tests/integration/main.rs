//! The command line as a process, with a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bulk;
mod command_line;
mod completion;
mod dead;
mod jobs_bulk;
mod lists;
mod lookup;
mod schedules;
mod submit;
mod support;
mod terminal;
mod top;
