//! The groups of all dead letters, shared by all viewers for some seconds.

use std::sync::Arc;
use std::time::Duration;

use client::{Which, dead_letters};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;

/// How many of the newest dead letters are read to group them.
const MAX_GROUPED: usize = 5_000;

/// For how long one answer serves all viewers, unless this gateway replays or discards dead letters.
const FRESH: Duration = Duration::from_secs(5);

/// The groups that were read last. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct DeadLetterGroups(Arc<Mutex<Option<Found>>>);

struct Found {
    at: Instant,
    /// [`App::dead_letter_changes`] before they were read.
    changes: u64,
    groups: Arc<dead_letters::Groups>,
}

impl DeadLetterGroups {
    /// The groups of all dead letters.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub(crate) async fn of_all(&self, app: &App) -> anyhow::Result<Arc<dead_letters::Groups>> {
        // Viewers that come meanwhile wait for the same answer.
        let mut last = self.0.lock().await;
        let changes = app.dead_letter_changes();
        if let Some(found) = &*last
            && found.changes == changes
            && found.at.elapsed() < FRESH
        {
            return Ok(Arc::clone(&found.groups));
        }
        let groups = dead_letters::groups(&app.nats.client, &Which::default(), MAX_GROUPED).await?;
        let groups = Arc::new(groups);
        *last = Some(Found {
            at: Instant::now(),
            changes,
            groups: Arc::clone(&groups),
        });
        Ok(groups)
    }
}
