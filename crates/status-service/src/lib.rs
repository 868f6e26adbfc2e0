//! Asks every consumer on `jobs.status` for its status, adds up the totals of the fleet, logs them,
//! and serves them on `jobs.fleet`.
//!
//! `asking` does a round: one question, and the answers of all consumers. `rounds` does one after the
//! other. `fleet` adds up the answers; it has neither a connection nor a clock. `report` logs what has
//! changed, and `durable_jobs` watches what the server stores.

mod asking;
mod config;
mod counts;
mod durable_jobs;
mod fleet;
mod fleet_endpoint;
mod metrics;
mod report;
mod rounds;
mod serve;

pub use asking::{Asker, Ignored, InstanceId, KindRuns, Round, RoundEnd, StatusAnswer};
pub use config::Config;
pub use serve::serve;
