//! The web face of the job system: an HTTP API for programs, and a dashboard for people.

mod access;
mod api;
mod app;
mod bulk;
mod config;
mod fleet;
mod gate;
mod limits;
mod metrics;
mod pages;
mod peers;
mod problem;
mod safety;
mod scope;
mod serve;
mod server;
mod tls;
mod tokens;

pub use config::{AccessOptions, Config, LimitOptions};
pub use serve::{ABOUT, serve};
