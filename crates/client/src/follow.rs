//! Follows the changes of one job.

use std::time::Duration;

use common::{JobId, JobRecord, JobState, Timestamp, subjects};
use connection::{NatsClient, Subscriber};
use futures_util::StreamExt as _;
use tokio::sync::watch;

use crate::lookup::look_up;

/// The pause after a failed look-up.
const PAUSE: Duration = Duration::from_millis(250);

/// The changes of one job.
pub(crate) struct Follow {
    client: NatsClient,
    connected: watch::Receiver<bool>,
    id: JobId,
    /// `None` before the first look-up.
    events: Option<Subscriber>,
    /// Whether the record has to be looked up: at first, and after a lost connection.
    look: bool,
    /// The last record that was returned: run, attempt, state and time.
    last: Option<(u32, u32, JobState, Timestamp)>,
}

impl Follow {
    pub(crate) fn new(client: NatsClient, connected: watch::Receiver<bool>, id: JobId) -> Self {
        Self {
            client,
            connected,
            id,
            events: None,
            look: true,
            last: None,
        }
    }

    /// The next record; `None` after the one with which the job has ended, or when the connection is
    /// closed for good. Dropping the future loses no record.
    pub(crate) async fn next(&mut self) -> Option<JobRecord> {
        if let Some((_, _, state, _)) = self.last
            && state.is_final()
        {
            return None;
        }
        loop {
            let record = self.any_record().await?;
            let now = (record.run, record.attempt, record.state, record.at);
            if self.last != Some(now) {
                self.last = Some(now);
                return Some(record);
            }
        }
    }

    /// The record by look-up or by event; it may be one that was returned before.
    async fn any_record(&mut self) -> Option<JobRecord> {
        loop {
            // It listens before it looks, so that no record is missed between the two.
            if self.events.is_none() {
                let events = self.client.subscribe(subjects::events(self.id)).await;
                self.events = Some(events.ok()?);
            }
            if self.look {
                self.connected.borrow_and_update();
                let Ok(record) = look_up(&self.client, self.id).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                self.look = false;
                if record.is_some() {
                    return record;
                }
            }
            let events = self.events.as_mut()?;
            tokio::select! {
                event = events.next() => {
                    if let Ok(record) = serde_json::from_slice(&event?.payload) {
                        return Some(record);
                    }
                }
                changed = self.connected.changed() => {
                    changed.ok()?;
                    self.look = *self.connected.borrow();
                }
            }
        }
    }
}
