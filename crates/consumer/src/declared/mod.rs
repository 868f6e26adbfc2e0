//! Handlers that a TOML file declares, so that a program, a web service or a NATS service runs
//! jobs and nobody has to write Rust.
//!
//! `deploy/handlers.toml` is an example with every key. The file is checked wholly when the
//! consumer starts.

mod arguments;
mod environment;
mod excerpt;
mod exec;
mod file;
mod http;
mod nats;
mod process_group;
mod result;
mod retry_after;
mod size;
mod standard_error;

pub(crate) use file::load;
pub(crate) use nats::LateClient;
pub(crate) use size::Size;
