use std::sync::Arc;
use std::time::Duration;

use client::{Guarantees, Queues, Stream, StreamDepth, WriteHealth};
use common::{Fleet, Timestamp};
use tokio::sync::watch;

use super::runs::RunTimes;

/// What the gateway knew of the system at a time. While NATS is away, that is what it knew last.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The time; `None` before the first one.
    pub(crate) at: Option<Timestamp>,
    /// Whether NATS was connected.
    pub(crate) connected: bool,
    /// The fleet with its first consumers, or why it is not known.
    pub(crate) fleet: Result<Arc<Fleet>, String>,
    /// The streams, or why they are not known; `None` if there are none yet.
    pub(crate) streams: Result<Option<Arc<Vec<StreamDepth>>>, String>,
    /// The queues of durable jobs; `None` if they are not known.
    pub(crate) queues: Option<Arc<Queues>>,
    /// The number of dead letters; `None` if it is not known.
    pub(crate) dead_letters: Option<u64>,
    /// What the server guarantees; `None` if it is not known.
    pub(crate) guarantees: Option<Arc<Guarantees>>,
    /// Why this gateway refuses durable jobs; `None` if it accepts them.
    pub(crate) refusal: Option<String>,
    /// Whether the server stores messages, by its own account; `None` if it is not known.
    pub(crate) storing: Option<WriteHealth>,
    /// How the jobs of the last rounds were shared among the consumers; `None` before the first.
    pub(crate) balance: Option<Balance>,
    /// Jobs that ended a second, and those of them that failed; `None` if that is not known.
    pub(crate) rates: Option<(f64, f64)>,
    /// The points of the charts, the oldest first.
    pub(crate) points: Arc<Vec<Point>>,
}

/// What the charts show of one moment. `None` is not known.
#[derive(Clone, Default)]
pub(crate) struct Point {
    /// The time since the start of the history.
    pub(crate) elapsed: Duration,
    /// Jobs that ended a second, and those of them that failed.
    pub(crate) rates: Option<(f64, f64)>,
    /// The run times of each kind of which a job had ended within a minute.
    pub(crate) run_ms: Option<Arc<RunTimes>>,
    /// Durable jobs that wait for a consumer.
    pub(crate) queued: Option<u64>,
    /// Durable jobs that wait for their time.
    pub(crate) scheduled: Option<u64>,
    /// Jobs that wait inside consumers.
    pub(crate) inbox: Option<u64>,
}

/// How the jobs of a round were shared among the consumers.
#[derive(Clone, Copy)]
pub(crate) struct Balance {
    /// When the round ended.
    pub(crate) at: Timestamp,
    /// The smallest and the largest share of one consumer, in percent.
    pub(crate) percent: [f64; 2],
    /// The number of consumers.
    pub(crate) consumers: u64,
}

impl Balance {
    /// The balance of the last round; `None` if fewer than two consumers ran jobs in it.
    pub(super) fn of(fleet: &Fleet) -> Option<Self> {
        Some(Self {
            at: fleet.asked_at?,
            percent: fleet.spread_percent?,
            consumers: fleet.answering,
        })
        .filter(|balance| balance.consumers >= 2)
    }
}

/// Holds the newest snapshot, and wakes those who wait for the next one.
pub(crate) type History = watch::Receiver<Arc<Snapshot>>;

impl Snapshot {
    /// A snapshot in which nothing is known.
    pub(crate) fn unknown() -> Self {
        Self {
            at: None,
            connected: false,
            fleet: Err("no status service has been asked yet".to_owned()),
            streams: Err("they have not been read yet".to_owned()),
            queues: None,
            dead_letters: None,
            guarantees: None,
            refusal: None,
            storing: None,
            balance: None,
            rates: None,
            points: Arc::default(),
        }
    }

    /// The time of what is shown, if that is old because NATS is away.
    pub(crate) fn old_since(&self) -> Option<Timestamp> {
        self.at.filter(|_| !self.connected)
    }

    /// How many messages of jobs a stream holds; `None` if that is not known.
    pub(crate) fn messages_in(&self, stream: Stream) -> Option<u64> {
        let streams = self.streams.as_ref().ok()?.as_ref()?;
        let found = streams.iter().find(|depth| depth.stream == stream);
        found.map(|depth| depth.without_ticks)
    }

    /// How many durable jobs wait for a consumer; `None` if that is not known.
    pub(crate) fn queued(&self) -> Option<u64> {
        self.streams.as_ref().ok()?.as_ref()?;
        Some(self.queues.as_ref()?.waiting)
    }
}
