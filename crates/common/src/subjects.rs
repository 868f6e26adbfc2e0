//! Names on NATS that publishers, consumers and observers agree on.

use crate::JobKind;

/// Jobs of every kind; consumers share it as the queue group [`WORKERS`].
pub const CREATE: &str = "jobs.create";

/// Request-reply: every consumer answers with its [`crate::ConsumerStatus`].
pub const STATUS: &str = "jobs.status";

/// Below it, a subject a kind: see [`serves_kind`].
pub const SERVES: &str = "jobs.serves";

/// The queue group in which consumers subscribe to [`CREATE`] and to the subjects below it.
pub const WORKERS: &str = "workers";

/// Header with the number of this submission of a job, from 1; absent means 1.
///
/// A publisher that submits the same id again counts it up, and the outcome repeats it.
pub const ATTEMPT_HEADER: &str = "Jobs-Attempt";

/// The name of the core lane in a [`crate::ConsumerStatus`].
pub const CORE_LANE: &str = "core";

/// The subject for jobs of one kind: only consumers that serve the kind receive them.
#[must_use]
pub fn create_kind(kind: &JobKind) -> String {
    format!("{CREATE}.{kind}")
}

/// The subject on which any consumer that serves a kind says so, also while it is full: an answer,
/// even an empty one, tells "nobody serves it" from "nobody has room".
#[must_use]
pub fn serves_kind(kind: &JobKind) -> String {
    format!("{SERVES}.{kind}")
}
