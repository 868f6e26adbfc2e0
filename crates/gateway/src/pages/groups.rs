//! The groups of all dead letters, as they were seen a moment ago: however many look, few letters are
//! read for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use durable::{Which, dead};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::problem::Problem;
use crate::app::App;

/// How many of the newest letters are looked at to group them.
const GROUPED: usize = 5_000;

/// For so long the last answer is good enough.
const FRESH: Duration = Duration::from_secs(5);

/// What was found last. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Groups(Arc<Shared>);

#[derive(Default)]
struct Shared {
    last: Mutex<Option<Found>>,
    /// How often letters were replayed or discarded from here.
    changes: AtomicU64,
}

struct Found {
    at: Instant,
    changes: u64,
    groups: Arc<dead::Groups>,
}

impl Groups {
    /// The groups of all letters.
    pub(crate) async fn of_all(&self, app: &App) -> Result<Arc<dead::Groups>, Problem> {
        // Whoever comes while one reads them waits for the same answer.
        let mut last = self.0.last.lock().await;
        let changes = self.0.changes.load(Ordering::Acquire);
        if let Some(found) = &*last
            && found.changes == changes
            && found.at.elapsed() < FRESH
        {
            return Ok(Arc::clone(&found.groups));
        }
        let groups = dead::groups(&app.nats.client, &Which::default(), GROUPED).await;
        let groups = Arc::new(groups.map_err(Problem::away)?);
        *last = Some(Found {
            at: Instant::now(),
            changes,
            groups: Arc::clone(&groups),
        });
        Ok(groups)
    }

    /// What was found is old, also if it is being read now.
    pub(crate) fn forget(&self) {
        self.0.changes.fetch_add(1, Ordering::Release);
    }
}
