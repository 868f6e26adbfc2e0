use bootstrap::trace::Span;
use tokio::time::Instant;

use crate::submission::Submission;

/// A job that has not ended.
pub(super) struct PendingJob {
    pub(super) submission: Submission,
    /// Index of its [`SubjectQueue`](super::subject_queues::SubjectQueue).
    pub(super) queue: usize,
    /// The engine's sequence number at submission. Messages of this slot with a larger number belong
    /// to this job.
    pub(super) serial: u64,
    pub(super) submitted_at: Instant,
    /// Number of the current attempt, from 1.
    pub(super) attempt: u32,
    /// How many times it was sent.
    pub(super) sent: u32,
    /// Since when it has been refused because consumers are full; `None` if it has not.
    pub(super) no_room_since: Option<Instant>,
    pub(super) state: JobState,
    pub(super) span: Span,
}

/// A pending job by its slot. The slot may hold another job later, which has another serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JobRef {
    pub(super) slot: u16,
    pub(super) serial: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// It is sent as soon as its queue's window has room and NATS is connected.
    Ready,
    /// It was sent and has no reply yet.
    Sent {
        /// Sequence number of the request.
        sequence: u64,
        /// [`SubjectQueue::accepted`](super::subject_queues::SubjectQueue::accepted) at that time.
        accepted_before: u64,
        /// When the attempt times out.
        until: Instant,
    },
    /// No consumer took it. A question on `jobs.serves.<kind>` finds out whether consumers are full
    /// or absent.
    Probing {
        /// Sequence number of the question; 0 before it is sent.
        sequence: u64,
        /// When the question times out.
        until: Instant,
    },
    /// It waits for its next attempt.
    Waiting {
        /// When that attempt starts.
        until: Instant,
    },
}

impl JobState {
    /// Whether the request with this sequence number is the one that has no reply yet.
    pub(super) fn is_sent_as(self, number: u64) -> bool {
        matches!(self, Self::Sent { sequence, .. } if sequence == number)
    }

    /// When the state ends by itself; `None` if it does not.
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Self::Ready => None,
            Self::Sent { until, .. } | Self::Probing { until, .. } | Self::Waiting { until } => {
                Some(until)
            }
        }
    }
}
