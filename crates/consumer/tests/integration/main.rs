//! The consumer as its users see it: the real binary on a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod fixture;
mod kinds;
mod library;
mod metrics;
mod outage;
mod saturation;
mod sharing;
mod shutdown;
mod status;
