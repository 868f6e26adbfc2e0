//! The trace of a job, from whoever hands it over to what its handler calls, as a collector sees it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod collector;
mod exporting;
mod fixture;
mod passing_on;
mod recorded;
