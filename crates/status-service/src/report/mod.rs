//! Log lines about the fleet.
//!
//! Names and other texts come from messages, which anybody may send, so they are logged escaped.

mod answers;
mod changes;
mod durable_jobs;
mod fleet;
mod rounding;
#[cfg(test)]
mod test_lines;

pub(crate) use answers::{answers, ignored};
pub(crate) use changes::changes;
pub(crate) use durable_jobs::{depth, unserved_kinds};
