//! Runs jobs: takes them from the queue group `workers`, hands each to the handler of its kind,
//! and answers with the outcome.
//!
//! A consumer with handlers of its own is a `main` that calls [`run`]:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     let handlers = consumer::Registry::built_in()
//!         .with_fn("greet", async |name: String| Ok(format!("hello {name}")));
//!     consumer::run(handlers)
//! }
//! ```

mod config;
mod consumer;
mod control;
mod declared;
mod durable_lane;
mod forward;
mod handler;
mod handlers;
mod inbox;
mod intake;
mod job_log;
mod metrics;
mod registry;
mod report;
mod runner;
mod serve;
mod settle;
mod trace;

pub use config::Config;
pub use handler::{Attempt, Failure, Handler};
pub use registry::Registry;
pub use serve::{ABOUT, run, serve};
