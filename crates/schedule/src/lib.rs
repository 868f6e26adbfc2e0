//! When the ticks of a recurring schedule are, and which of them have a job.
//!
//! It is a crate of its own because it brings the rules of all time zones: a program that only submits jobs
//! does not need them.

mod due;
mod tick_job;
mod timetable;
mod wall_clock;

pub use due::{Due, IN_TIME};
pub use tick_job::pending_job;
pub use timetable::Timetable;
