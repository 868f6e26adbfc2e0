//! Where jobs come from: generated here, or read from newline-delimited JSON.

mod generate;
mod item;
mod job_source;
mod ndjson;
mod pace;

pub(crate) use item::{BadLine, Item};
pub(crate) use job_source::JobSource;
pub(crate) use ndjson::{OpenInput, same_file};
