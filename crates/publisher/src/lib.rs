//! Submits jobs: one by one, at a rate, or in bulk from newline-delimited JSON.
//!
//! Jobs come from a `source`, go to NATS by one of the three ways of `--delivery` (`confirmed`,
//! `fire_and_forget`, `durable`), and their results go into the `report`. A `run` connects the three.

pub mod codes;
mod config;
mod confirmed;
mod connection_closed;
mod delivery;
mod durable;
mod fire_and_forget;
mod outcome;
mod report;
mod run;
mod serve;
mod source;
mod submission;
mod trace;

pub use config::Config;
pub use serve::serve;
