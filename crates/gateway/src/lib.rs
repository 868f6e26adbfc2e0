//! The web face of the job system: an HTTP API for programs, and a dashboard for people.

mod api;
mod app;
mod config;
mod pages;
mod serve;

pub use config::Config;
pub use serve::{ABOUT, serve};
