use std::time::{Duration, Instant};

use common::{ConsumerState, Counts, RunTime};

use super::runs::MemberRuns;

/// One instance of a consumer in the fleet. What it does is as in its last answer.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) host: String,
    pub(super) version: String,
    pub(super) presence: MemberPresence,
    pub(super) state: ConsumerState,
    pub(super) concurrency: u32,
    pub(super) in_flight: u32,
    pub(super) waiting: u64,
    /// Dropped messages that were reported.
    pub(super) dropped: u64,
    /// The longest run times of its kinds.
    pub(super) run_ms: RunTime,
    /// The runs of its last answer; `None` before the first.
    pub(super) runs: Option<MemberRuns>,
    /// Time from the question to its last answer.
    pub(super) took: Duration,
    /// The largest counts that it ever answered.
    pub(super) counts: Counts,
    /// The part of its counts that is in the sum of the departed already.
    pub(super) already_departed: Counts,
    /// When it answered last.
    pub(super) heard: Instant,
    /// Jobs it had ended when it answered the round before; `None` if it did not answer that.
    pub(super) processed_before: Option<u64>,
    /// Whether it answered the last round in time.
    pub(super) answered: bool,
    /// Whether its last answer came after the end of its round.
    pub(super) late: bool,
    /// Whether it was reported that its answers come too late.
    pub(super) late_reported: bool,
}

/// What was reported about an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberPresence {
    /// Nothing: it has never answered a round in time.
    New,
    /// It was gone, and has answered again.
    Returned,
    /// It answers.
    Present,
    /// It is missing.
    Missing,
}
