//! The status service on a real server, with simulated consumers.

mod asker;
mod cli;
mod metrics;
mod service;
mod support;
