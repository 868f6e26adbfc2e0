//! What the dashboard knows of the system: a snapshot every two seconds, taken once for all viewers. What
//! is costly to read is read less often.

mod feed;
mod periodic;
mod rates;
mod runs;
mod snapshot;
mod watch;

pub(super) use feed::Feed;
pub(super) use snapshot::{Balance, History, Point, Snapshot};
pub(super) use watch::{SPAN, watch};
