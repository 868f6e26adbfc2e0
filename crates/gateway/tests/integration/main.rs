//! The HTTP API as its users see it: the real binary on a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod bulk;
mod command_line;
mod dead_letters;
mod events;
mod jobs;
mod limits;
mod openapi;
mod outage;
mod safety;
mod submit;
mod support;
mod system;
