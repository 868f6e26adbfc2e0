//! The gateway: an HTTP API for programs, and a dashboard for people.

mod api;
mod app;
mod auth;
mod bulk;
mod config;
mod http;
mod jobs_bulk;
mod kind_settings;
mod pages;
mod schedules;
mod serve;
mod system;

pub use config::{AccessOptions, Config, LimitOptions};
pub use serve::{ABOUT, serve};
