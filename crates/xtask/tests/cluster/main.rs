//! The durable lane on a cluster of three real servers, with real consumers: what is promised when a server
//! is lost, and that nobody decides by what a follower has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod elections;
mod fixture;
mod leader;
mod replicas;
