//! What every service does around its own work: read its configuration, say what it does in its
//! logs, reach NATS, stop when it is told to, answer a health check, and show its metrics.
//!
//! A service's `main` is one call of [`run`]. The order of start and stop is written here once:
//! configuration, logs, signals, health, metrics, the service's own work, then an exit that waits for
//! nothing that cannot be stopped.

mod cli;
mod health;
mod monitor;
mod nats;
mod service;
mod shutdown;
mod task;
mod telemetry;
mod tool;
pub mod trace;

pub use cli::{Misconfigured, Options};
pub use health::Health;
pub use monitor::{Families, Labels, Monitor, Times, Waits};
pub use nats::{Client, Endpoint, Nats, NatsOptions, Registration, Subscriber, is_unreadable};
pub use service::{About, Context, run};
pub use task::{Beat, STILL};
pub use telemetry::{LogFormat, redirect_logs};
pub use tool::{Tool, ToolOptions};
