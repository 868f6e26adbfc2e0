use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{JobKind, RunCounts, RunTime, Timestamp};

/// What a consumer answers on `jobs.status`.
///
/// An instance lives from one start to the next. The pair of `consumer` and `started_at` names it,
/// and its counts only grow. Readers must ignore fields that they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConsumerStatus {
    /// Instance name.
    pub consumer: String,
    /// Host name of the machine or container.
    pub host: String,
    /// Version of the consumer.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Whether it takes jobs.
    pub state: ConsumerState,
    /// The most jobs that it runs at a time.
    pub concurrency: u32,
    /// Jobs that run now.
    pub in_flight: u32,
    /// The most jobs that wait in it before it leaves the queue group.
    pub inbox: u32,
    /// Jobs that wait in it now.
    pub waiting: u64,
    /// Messages that reached it, good or bad.
    pub received: u64,
    /// Messages that its NATS client had to drop; 0 unless something is badly wrong.
    pub dropped: u64,
    /// Durable lane: kinds with waiting jobs that no consumer serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved_kinds: Vec<JobKind>,
    /// All lanes together.
    pub totals: Counts,
    /// Each lane by its name: `core` for `jobs.create`, `durable` where the consumer serves it.
    pub lanes: BTreeMap<String, LaneStatus>,
}

/// Whether a consumer takes jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConsumerState {
    /// It takes jobs.
    Running,
    /// Its inbox is full; it has left the queue group until there is room.
    Saturated,
    /// It was told to stop and finishes what it runs.
    Draining,
}

/// How many jobs ended in each way since the consumer started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Counts {
    /// Jobs that ended here (in the durable lane: attempts): succeeded, failed, rejected, expired and
    /// cancelled.
    pub processed: u64,
    /// The handler returned a result.
    pub succeeded: u64,
    /// The handler failed, panicked or took too long.
    pub failed: u64,
    /// Malformed, or of a kind that nobody serves.
    pub rejected: u64,
    /// Not started, because the deadline had passed.
    pub expired: u64,
    /// Started for the second time or later; counted in the others too.
    pub retried: u64,
    /// Handed back because the consumer was full; not counted in `processed`.
    pub busy: u64,
    /// Handed back or given up because the consumer stopped; not counted in `processed`.
    pub interrupted: u64,
    /// Durable lane: cancelled while they ran.
    pub cancelled: u64,
}

/// One lane of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LaneStatus {
    /// All kinds together, jobs whose kind could not be read included.
    #[serde(flatten)]
    pub counts: Counts,
    /// Each kind that the consumer has a handler for and has received.
    pub kinds: BTreeMap<String, KindStatus>,
}

/// One kind of jobs in one lane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct KindStatus {
    /// How its jobs ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// How long its handler ran since the consumer started.
    pub run_ms: RunTime,
    /// The same as counts, from which a reader learns how long it ran between two answers. Absent if it
    /// has not run, or the consumer is of an older version.
    #[serde(skip_serializing_if = "RunCounts::is_empty")]
    pub run_counts: RunCounts,
}

/// ```
/// use common::{ConsumerState, ConsumerStatus, Counts, KindStatus, LaneStatus, RunTime};
///
/// /// How the jobs of a kind have ended in both lanes of a consumer, and its longest run.
/// fn of_kind(status: &ConsumerStatus, kind: &str) -> (Counts, f64) {
///     let (mut counts, mut longest) = (Counts::default(), RunTime::default().max);
///     for lane in status.lanes.values() {
///         let lane: &LaneStatus = lane;
///         if let Some(KindStatus { counts: more, run_ms, .. }) = lane.kinds.get(kind) {
///             counts += *more;
///             longest = run_ms.max.max(longest);
///         }
///     }
///     (counts, longest)
/// }
///
/// assert_eq!(ConsumerState::Draining.to_string(), "draining");
/// # let _ = of_kind;
/// ```
impl std::ops::AddAssign for Counts {
    /// Saturates: the numbers come from the wire, and may be anything.
    fn add_assign(&mut self, other: Self) {
        self.processed = self.processed.saturating_add(other.processed);
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.failed = self.failed.saturating_add(other.failed);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.expired = self.expired.saturating_add(other.expired);
        self.retried = self.retried.saturating_add(other.retried);
        self.busy = self.busy.saturating_add(other.busy);
        self.interrupted = self.interrupted.saturating_add(other.interrupted);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
    }
}

impl std::fmt::Display for ConsumerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Saturated => "saturated",
            Self::Draining => "draining",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_on_the_wire_reads_as_documented_and_survives_the_round_trip() {
        let counts = Counts {
            processed: 3,
            succeeded: 2,
            failed: 1,
            ..Counts::default()
        };
        let run_ms = RunTime {
            p50: 0.5,
            p90: 1.0,
            p99: 2.0,
            max: 2.5,
        };
        let mut run_counts = RunCounts::default();
        run_counts.add(0.2, 2);
        run_counts.add(0.4, 1);
        let kind = KindStatus {
            counts,
            run_ms,
            run_counts,
        };
        let status = ConsumerStatus {
            consumer: "consumer-3f9a1c".into(),
            host: "worker-1".into(),
            version: "0.1.0".into(),
            started_at: "2026-01-31T09:30:00Z".parse().unwrap(),
            uptime_ms: 1_500,
            state: ConsumerState::Running,
            concurrency: 4,
            in_flight: 1,
            inbox: 1024,
            waiting: 0,
            received: 4,
            dropped: 0,
            unserved_kinds: Vec::new(),
            totals: counts,
            lanes: [(
                crate::subjects::CORE_LANE.to_owned(),
                LaneStatus {
                    counts,
                    kinds: [("echo".to_owned(), kind)].into(),
                },
            )]
            .into(),
        };
        insta::assert_json_snapshot!(status);
        let back: ConsumerStatus =
            serde_json::from_slice(&serde_json::to_vec(&status).unwrap()).unwrap();
        assert_eq!(back, status);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = serde_json::from_slice::<ConsumerStatus>(&bytes);
        }
    }
}
