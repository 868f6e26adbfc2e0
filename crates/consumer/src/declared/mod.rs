//! Handlers declared in a TOML file: a program, a web service or a NATS service runs the jobs,
//! without any Rust.
//!
//! `deploy/handlers.toml` is an example with every key. The whole file is checked when the consumer
//! starts.

mod arguments;
mod environment;
mod excerpt;
mod exec;
mod file;
mod http;
mod mistake;
mod nats;
mod nearest;
mod process_group;
mod result;
mod retry;
mod size;
mod standard_error;

pub(crate) use file::load;
pub(crate) use nats::LateClient;
pub(crate) use size::Size;
