use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use connection::NatsClient;
use jetstream::batch::MOST_MESSAGES;
use jetstream::{ApiError, QueueLimit, Writer, queue_limit};
use tokio::time::Instant;

/// How often the size of the queue is looked at while jobs are submitted.
const PERIOD: Duration = Duration::from_secs(1);

/// Whether the queue has room for more jobs.
///
/// The server enforces the limit of the queue only while the queue is large, and consumers see to that.
/// If all of them were killed, nobody else would stop submitters from taking the room that the records of
/// jobs need. So a submitter looks at the size itself, once a second while it submits.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Mutex<Look>>);

#[derive(Debug)]
struct Look {
    /// When to look again; `None` if this user may not look, or a look is under way.
    next: Option<Instant>,
    /// What the last look has found.
    found: Option<QueueLimit>,
}

impl Room {
    /// The first look is only after a second: most programs that submit one job have ended then.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Look {
            next: Some(Instant::now() + PERIOD),
            found: None,
        })))
    }

    /// Why the queue takes no more jobs, by the last look; `None` if it does. Looks again in the
    /// background if the last look is older than a second.
    pub(crate) fn check(&self, client: &NatsClient, writers: [&Writer; 2]) -> Option<String> {
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if look.next.is_some_and(|next| next <= Instant::now()) {
            look.next = None;
            let writers = writers.map(Clone::clone);
            tokio::spawn(self.clone().look(client.clone(), writers));
        }
        // A limit that is in force is checked by the server itself.
        let is_full = |queue: &QueueLimit| queue.is_reached() && !queue.in_force;
        let queue = look.found.filter(is_full)?;
        Some(format!(
            "maximum bytes exceeded: the queue has {} bytes, and its limit is {}",
            queue.bytes,
            queue.limit.unwrap_or_default()
        ))
    }

    async fn look(self, client: NatsClient, writers: [Writer; 2]) {
        let read = queue_limit::read(&client).await;
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(read, Err(ApiError::Forbidden(_))) {
            // The server refuses what is too much, as soon as a consumer runs.
            return;
        }
        look.next = Some(Instant::now() + PERIOD);
        // Without an answer, the last one does not count for longer.
        look.found = read.ok().flatten();
        // Where the server enforces the limit, a batch costs it the square of its messages.
        let in_force = look.found.is_some_and(|queue| queue.in_force);
        for writer in writers {
            writer.set_largest(in_force.then_some(MOST_MESSAGES));
        }
    }
}
