//! Log lines about the fleet.
//!
//! Names and other texts come from messages, which anybody may send, so they are logged escaped.

mod answers;
mod changes;
mod fleet;
mod rounding;
#[cfg(test)]
mod test_lines;
mod unserved_kinds;

pub(crate) use answers::{answers, ignored};
pub(crate) use changes::changes;
pub(crate) use unserved_kinds::unserved_kinds;
