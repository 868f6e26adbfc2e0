//! Slots run jobs, one after the other.
//!
//! The number of slots is the one bound on concurrency: a job runs in the task of its slot, and
//! the slot takes the next job when it has settled the last one.

mod read;
mod work;

pub(crate) use work::work;
