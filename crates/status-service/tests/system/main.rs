//! The status service on a real server, with simulated consumers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asker;
mod cli;
mod fleet;
mod metrics;
mod service;
mod support;
