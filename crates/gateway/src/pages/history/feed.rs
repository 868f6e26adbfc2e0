//! Publishes snapshots to the pages, with a count of dead letters that is never older than what this
//! gateway has done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::periodic::Periodic;
use super::snapshot::Snapshot;
use crate::app::App;

/// How often dead letters are counted, unless this gateway changes their number: the server adds up
/// their subjects each time.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// How long a page waits for a new count; if it takes longer, the page shows the last one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Publishes snapshots. Clones share it.
#[derive(Clone)]
pub(crate) struct Feed {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Held while dead letters are counted and the count is published, so that no older count comes after
    /// it.
    dead_letters: Arc<Mutex<DeadLetterCount>>,
}

impl Feed {
    pub(crate) fn new(snapshots: watch::Sender<Arc<Snapshot>>, app: &App) -> Self {
        let dead_letters = DeadLetterCount {
            number: Periodic::new(COUNT_INTERVAL),
            last_known: None,
            changes: app.dead_letter_changes(),
        };
        Self {
            snapshots,
            dead_letters: Arc::new(Mutex::new(dead_letters)),
        }
    }

    /// Makes the next snapshot count the dead letters.
    pub(crate) async fn invalidate_dead_letters(&self) {
        self.dead_letters.lock().await.number.keep(None);
    }

    /// Counts the dead letters if this gateway has replayed or discarded some since the last count, so
    /// that a person sees the effect at once.
    pub(crate) async fn refresh_dead_letters(&self, app: &App) {
        let refreshing = async {
            let mut counted = self.dead_letters.lock().await;
            if counted.changes != app.dead_letter_changes() {
                counted.count(app).await;
                let count = counted.number.get();
                self.snapshots
                    .send_modify(|snapshot| Arc::make_mut(snapshot).dead_letters = count);
            }
        };
        // If it takes too long, the next snapshot counts.
        let _ = tokio::time::timeout(PATIENCE, refreshing).await;
    }

    /// Publishes a snapshot, with the number of dead letters.
    pub(crate) async fn publish(&self, app: &App, mut snapshot: Snapshot) {
        let mut counted = self.dead_letters.lock().await;
        if !matches!(snapshot.streams, Ok(Some(_))) {
            // Without streams there are none; a server that does not answer is not asked again.
            counted.number.keep(None);
            counted.changes = app.dead_letter_changes();
        } else if counted.changes != app.dead_letter_changes() || counted.number.is_due() {
            counted.count(app).await;
        }
        snapshot.dead_letters = counted.number.get();
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Publishes what is known while NATS is away, with the number of dead letters that was counted last.
    pub(crate) async fn publish_last_known(&self, mut snapshot: Snapshot) {
        let mut counted = self.dead_letters.lock().await;
        counted.number.keep(None);
        snapshot.dead_letters = counted.last_known;
        self.snapshots.send_replace(Arc::new(snapshot));
    }
}

struct DeadLetterCount {
    /// The number of dead letters.
    number: Periodic<u64>,
    /// The number that was counted last, for the time while NATS is away.
    last_known: Option<u64>,
    /// [`App::dead_letter_changes`] before they were counted.
    changes: u64,
}

impl DeadLetterCount {
    async fn count(&mut self, app: &App) {
        let changes = app.dead_letter_changes();
        let count = client::count_dead_letters(&app.nats.client).await;
        let count = count.ok().flatten();
        self.last_known = count.or(self.last_known);
        self.number.keep(count);
        self.changes = changes;
    }
}
