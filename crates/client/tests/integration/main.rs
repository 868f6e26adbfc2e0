//! What is done with durable jobs from outside the consumers, on a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod browse;
mod dead;
mod known;
mod look;
mod many;
mod many_dead;
mod storage;
mod streams;
mod submit;
mod support;
mod unique;
mod waiting;
mod why;
