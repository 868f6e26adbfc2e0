//! The groups of all dead letters, as they were seen a moment ago: however many look, few letters are
//! read for it.

use std::sync::Arc;
use std::time::Duration;

use client::{Which, dead_letters};
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
pub(crate) struct Groups(Arc<Mutex<Option<Found>>>);

struct Found {
    at: Instant,
    changes: u64,
    groups: Arc<dead_letters::Groups>,
}

impl Groups {
    /// The groups of all letters.
    pub(crate) async fn of_all(&self, app: &App) -> Result<Arc<dead_letters::Groups>, Problem> {
        // Whoever comes while one reads them waits for the same answer.
        let mut last = self.0.lock().await;
        let changes = app.letter_changes();
        if let Some(found) = &*last
            && found.changes == changes
            && found.at.elapsed() < FRESH
        {
            return Ok(Arc::clone(&found.groups));
        }
        let groups = dead_letters::groups(&app.nats.client, &Which::default(), GROUPED).await;
        let groups = Arc::new(groups.map_err(Problem::away)?);
        *last = Some(Found {
            at: Instant::now(),
            changes,
            groups: Arc::clone(&groups),
        });
        Ok(groups)
    }
}
