//! The HTTP API as its users see it: the real binary on a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod command_line;
mod dead_letters;
mod dead_letters_bulk;
mod events;
mod jobs;
mod jobs_bulk;
mod limits;
mod many_jobs;
mod openapi;
mod outage;
mod refusals;
mod safety;
mod schedules;
mod submit;
mod support;
mod system;
mod tls;
