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
mod nats_options;
mod registration;
mod service;
mod shutdown;
mod telemetry;
mod tool;
pub mod trace;

pub use about::About;
pub use cli::Options;
pub use connection::{Beat, Health, Nats, NatsClient, STILL, Subscriber, is_unreadable};
pub use context::Context;
pub use misconfigured::Misconfigured;
pub use monitor::{Families, Labels, Monitor, Times, Waits};
pub use nats_options::NatsOptions;
pub use registration::{Endpoint, Registration};
pub use service::run;
pub use telemetry::{LogFormat, redirect_logs};
pub use tool::{Tool, ToolOptions};
