//! What every service does around its own work: configuration, logs, the connection to NATS, signals,
//! health, metrics and traces.
//!
//! The `main` of a service is one call of [`run`], which starts and stops everything in this order:
//! configuration, logs, health, metrics, signals, the service's own work. The exit does not wait for
//! work that cannot be interrupted.

mod about;
mod cli;
mod context;
mod health;
mod misconfigured;
mod monitor;
mod nats;
mod service;
mod shutdown;
mod task;
mod telemetry;
mod tool;
pub mod trace;

pub use about::About;
pub use cli::Options;
pub use context::Context;
pub use health::Health;
pub use misconfigured::Misconfigured;
pub use monitor::{Families, Labels, Monitor, Times, Waits};
pub use nats::{Client, Endpoint, Nats, NatsOptions, Registration, Subscriber, is_unreadable};
pub use service::run;
pub use task::{Beat, STILL};
pub use telemetry::{LogFormat, redirect_logs};
pub use tool::{Tool, ToolOptions};
