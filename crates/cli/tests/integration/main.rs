//! The command line as a process, with a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bulk;
mod cancel_many;
mod command_line;
mod completion;
mod dead;
mod lists;
mod lookup;
mod schedules;
mod submit;
mod support;
mod terminal;
mod top;
