//! What the pages show, and the count of dead letters in it, which is not to be older than what was
//! done here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::history::{NowAndThen, Snapshot};
use crate::app::App;

/// How often dead letters are counted, unless it is known that there are others: the server adds up
/// their subjects for it.
const DEAD: Duration = Duration::from_secs(30);

/// How long a page waits for them to be counted; it shows the count before if that takes longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where each new snapshot is shown, with the count of dead letters. Clones share it.
#[derive(Clone)]
pub(crate) struct Shown {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Held while they are counted and the count is shown, so that no older one comes after it.
    dead: Arc<Mutex<DeadCount>>,
}

impl Shown {
    pub(crate) fn new(snapshots: watch::Sender<Arc<Snapshot>>, app: &App) -> Self {
        let dead = DeadCount {
            count: NowAndThen::new(DEAD),
            changes: app.letter_changes(),
        };
        Self {
            snapshots,
            dead: Arc::new(Mutex::new(dead)),
        }
    }

    /// Lets them be counted at the next look.
    pub(crate) async fn doubt_dead(&self) {
        self.dead.lock().await.count.keep(None);
    }

    /// Counts them where some were replayed or discarded from here since, so that whoever did it
    /// sees what came of it.
    pub(crate) async fn refresh_dead(&self, app: &App) {
        let refreshing = async {
            let mut dead = self.dead.lock().await;
            if dead.changes != app.letter_changes() {
                dead.look(app).await;
                let count = dead.count.get();
                self.snapshots
                    .send_modify(|snapshot| Arc::make_mut(snapshot).dead = count);
            }
        };
        // If it takes too long, it is counted at the next look.
        let _ = tokio::time::timeout(PATIENCE, refreshing).await;
    }

    /// Shows what was seen.
    pub(crate) async fn show(&self, app: &App, mut snapshot: Snapshot) {
        let mut dead = self.dead.lock().await;
        if !matches!(snapshot.streams, Ok(Some(_))) {
            // Without a durable lane there are none, and what does not answer is not asked more.
            dead.count.keep(None);
            dead.changes = app.letter_changes();
        } else if dead.changes != app.letter_changes() || dead.count.is_due() {
            dead.look(app).await;
        }
        snapshot.dead = dead.count.get();
        self.snapshots.send_replace(Arc::new(snapshot));
    }
}

struct DeadCount {
    count: NowAndThen<u64>,
    /// How often letters were replayed or discarded from here when they were counted.
    changes: u64,
}

impl DeadCount {
    async fn look(&mut self, app: &App) {
        let changes = app.letter_changes();
        let count = client::count_dead_letters(&app.nats.client).await;
        self.count.keep(count.ok().flatten());
        self.changes = changes;
    }
}
