//! Runs jobs: takes them from the queue group `workers`, calls the handler of their kind, and
//! replies with the outcome.
//!
//! A consumer with its own handlers is a `main` that calls [`run`]:
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

mod any_handler;
mod attempt_end;
mod config;
mod consumer;
mod core_lane;
mod counters;
mod declared;
mod durable_lane;
mod handler;
mod handlers;
mod inbox;
mod job_log;
mod job_summary;
mod keep;
mod kinds;
mod lock;
mod metrics;
mod registry;
mod running;
mod serve;
mod settle;
mod slot;
mod state;
mod status;
mod stop;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod trace;

pub use common::Job;
pub use config::{Config, Durable, Replicas};
pub use handler::{Attempt, Failure, Handler};
pub use keep::Keep;
pub use registry::Registry;
pub use serve::{ABOUT, run, run_as, serve};
