//! Jobs from newline-delimited JSON.

mod lines;
mod open;
mod reader;

pub(crate) use open::{OpenInput, same_file};
pub(crate) use reader::JobReader;
