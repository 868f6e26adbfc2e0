//! What every request passes: its connection, the limits, the checks, and the form of a refusal.

mod gate;
mod limits;
mod metrics;
mod peers;
mod problem;
pub(crate) mod server;
pub(crate) mod tls;

pub(crate) use gate::gate;
pub(crate) use limits::{Limits, MAX_BODY_OF_MANY_JOBS, ReceivedBody};
pub(crate) use metrics::Metrics;
pub(crate) use problem::Problem;
