use bootstrap::trace::Span;
use tokio::time::Instant;

use crate::submission::Submission;

/// A job that has not ended.
pub(crate) struct Held {
    pub(crate) submission: Submission,
    pub(crate) lane: usize,
    /// The clock when it was submitted; everything that was sent later in this slot is this job's.
    pub(crate) serial: u64,
    pub(crate) since: Instant,
    pub(crate) attempt: u32,
    pub(crate) sent: u32,
    /// Since when it is refused, because consumers that serve it are full.
    pub(crate) no_room_since: Option<Instant>,
    pub(crate) state: State,
    pub(crate) span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is sent as soon as its lane has room and NATS is there.
    Ready,
    /// It was sent, as number `wire` of the clock, when its lane had `taken` so many jobs.
    OnTheWire {
        wire: u64,
        taken: u64,
        until: Instant,
    },
    /// Nobody took it, and consumers are asked, by number `wire` of the clock, whether they are
    /// there.
    Asking { wire: u64, until: Instant },
    /// It waits for its next attempt.
    Waiting { until: Instant },
}

impl State {
    /// Whether it was sent, last, as this number of the clock.
    pub(crate) fn is_on_the_wire_as(self, number: u64) -> bool {
        matches!(self, Self::OnTheWire { wire, .. } if wire == number)
    }

    /// When it does not last any longer, whatever happens.
    pub(crate) fn until(self) -> Option<Instant> {
        match self {
            Self::Ready => None,
            Self::OnTheWire { until, .. }
            | Self::Asking { until, .. }
            | Self::Waiting { until } => Some(until),
        }
    }
}
