//! The publisher as a process, with a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod back_pressure;
mod bulk;
mod command_line;
mod confirmed;
mod durable;
mod generate;
mod metrics;
mod outage;
mod stopping;
mod support;
