//! Submits the jobs of recurring schedules.
//!
//! There is no leader: the server keeps the time of the next tick of each schedule, and any consumer takes
//! the tick.

mod keeper;
mod last_job;
mod tasks;
mod timer;

pub(super) use tasks::ensure;
pub(crate) use tasks::{OverdueTicks, ScheduleChanges, Ticks};
