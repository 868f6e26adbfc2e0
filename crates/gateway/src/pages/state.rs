use std::sync::Arc;

use tokio::sync::Semaphore;

use super::bulk_slot::BulkSlot;
use super::dead_letter_groups::DeadLetterGroups;
use super::history::{Feed, History};
use crate::app::App;

/// The most viewers that are told of news at a time. Everybody else can still reload.
const MAX_VIEWERS: usize = 500;

/// What every page can use. Clones share it.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(super) app: App,
    /// The newest snapshot of the system.
    pub(super) history: History,
    /// Publishes the snapshots.
    pub(super) feed: Feed,
    /// A permit for each viewer.
    pub(super) viewers: Arc<Semaphore>,
    /// The bulk work on dead letters that was begun last.
    pub(super) bulk: BulkSlot,
    /// The groups of all dead letters.
    pub(super) groups: DeadLetterGroups,
}

impl Pages {
    pub(super) fn new(app: &App, history: History, feed: Feed) -> Self {
        Self {
            app: app.clone(),
            history,
            feed,
            viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
            bulk: BulkSlot::new(app.context.shutdown.clone()),
            groups: DeadLetterGroups::default(),
        }
    }
}
