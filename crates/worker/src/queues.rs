//! The durable consumers from which this consumer takes jobs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::{JobKind, Priority};
use jetstream::{Stream, Unanswered, parse_consumer};
use tokio::sync::watch;

/// A durable consumer to pull from.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pub(crate) stream: Stream,
    pub(crate) consumer: String,
    /// The kind of its jobs; `()` for a queue of requests.
    pub(crate) of: T,
    /// The priority of its jobs, if all have the same one.
    pub(crate) priority: Option<Priority>,
    /// Whether this consumer gave a job back since the last pull.
    pub(crate) gave_back: AtomicBool,
    /// Measures for how long no pull has succeeded.
    pub(crate) unanswered: Unanswered,
}

impl<T> Queue<T> {
    fn new(stream: Stream, consumer: String, of: T, priority: Option<Priority>) -> Self {
        Self {
            stream,
            consumer,
            of,
            priority,
            gave_back: AtomicBool::new(false),
            unanswered: Unanswered::default(),
        }
    }
}

impl Queue<()> {
    pub(crate) fn of_requests(stream: Stream, consumer: &str) -> Self {
        Self::new(stream, consumer.to_owned(), (), None)
    }
}

impl Queue<JobKind> {
    pub(crate) fn of_kind(stream: Stream, kind: &JobKind, consumer: String) -> Self {
        let priority = parse_consumer(&consumer).and_then(|(_, priority)| priority);
        Self::new(stream, consumer, kind.clone(), priority)
    }
}

/// All queues of jobs; clones share them. Queues are added when the priorities of a kind are heeded from
/// then on, and none is removed.
#[derive(Clone, Debug)]
pub(crate) struct Queues(Arc<watch::Sender<Vec<Arc<Queue<JobKind>>>>>);

impl Queues {
    pub(crate) fn new(queues: Vec<Arc<Queue<JobKind>>>) -> Self {
        Self(Arc::new(watch::Sender::new(queues)))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Queue<JobKind>>> {
        self.0.borrow().clone()
    }

    /// Adds a queue unless it is there.
    pub(crate) fn add(&self, stream: Stream, kind: &JobKind, consumer: String) {
        self.0.send_if_modified(|queues| {
            let is_new = queues
                .iter()
                .all(|queue| queue.stream != stream || queue.consumer != consumer);
            if is_new {
                queues.push(Arc::new(Queue::of_kind(stream, kind, consumer)));
            }
            is_new
        });
    }

    /// Tells of queues that are added.
    pub(crate) fn added(&self) -> watch::Receiver<Vec<Arc<Queue<JobKind>>>> {
        self.0.subscribe()
    }
}
