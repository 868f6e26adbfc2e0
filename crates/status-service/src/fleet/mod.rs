//! The fleet: all consumers that were ever heard of, and the totals of their work.

mod changes;
mod departed;
mod fleet_view;
mod last_round;
mod member;
mod runs;
mod summary;
mod tracker;

pub(crate) use changes::{Answering, Change, ConsumerEvent, RoundChanges};
pub(crate) use summary::Summary;
#[cfg(test)]
pub(crate) use summary::{Progress, Spread};
pub(crate) use tracker::FleetTracker;
