//! The services together, as real processes on a real nats-server: what only shows when publisher,
//! consumers and status service meet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bulk;
mod crash;
mod fixture;
mod fleet;
mod foreign;
mod generated_client;
#[path = "../observer/mod.rs"]
mod observer;
mod outage;
mod permissions;
mod raw_client;
mod rights;
mod saturation;
mod scaling;
