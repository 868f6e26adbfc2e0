//! Follows the changes of one job.

use std::pin::Pin;
use std::time::Duration;

use common::{JobId, JobRecord, JobState, Timestamp, subjects};
use connection::{NatsClient, Operation, Subscriber};
use futures_util::StreamExt as _;
use jetstream::{ApiError, records};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::lookup::look_up;

/// The pause after a failed look-up.
const PAUSE: Duration = Duration::from_millis(250);

/// How often the job is looked up even if nothing was heard of it.
const AGAIN: Duration = Duration::from_mins(1);

/// How long look-ups may have no answer on a connection that the application has made, while the server
/// answers otherwise.
const UNANSWERED: Duration = Duration::from_secs(30);

/// How long the server may take to show that it answers otherwise.
const ROUND_TRIP: Duration = Duration::from_secs(5);

/// Why a job can no longer be waited for. The job itself is not affected.
///
/// ```
/// use client::WaitError;
///
/// /// Whether to wait again later.
/// fn is_worth_another_try(error: &WaitError) -> bool {
///     matches!(error, WaitError::NoAnswer(_))
/// }
/// assert!(!is_worth_another_try(&WaitError::Closed));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The user of this connection may not publish or subscribe to this subject.
    #[error(
        "the server does not let this user publish or subscribe to {0}: grant it that in the \
         permissions of the server"
    )]
    Forbidden(String),
    /// The connection is closed for good. Connect again.
    #[error("the connection to NATS is closed for good")]
    Closed,
    /// The server did not answer in time. On a connection that the application has made, the user may
    /// have no permission: such a connection does not tell.
    #[error("the job could not be looked up: {0}")]
    NoAnswer(String),
}

/// The changes of one job.
pub(crate) struct Follow {
    client: NatsClient,
    connected: watch::Receiver<bool>,
    id: JobId,
    /// `None` before the first look-up.
    events: Option<Events>,
    /// When the record has to be looked up: at first, after a lost connection, and now and then.
    look_at: Instant,
    /// Since when look-ups have had no answer on one connection.
    unanswered: Option<Instant>,
    /// The last record that was returned: run, attempt, state and time.
    last: Option<(u32, u32, JobState, Timestamp)>,
}

/// The events of the job.
struct Events {
    records: Subscriber,
    /// Ends when the server refuses the subscription.
    refused: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Follow {
    pub(crate) fn new(client: NatsClient, connected: watch::Receiver<bool>, id: JobId) -> Self {
        Self {
            client,
            connected,
            id,
            events: None,
            look_at: Instant::now(),
            unanswered: None,
            last: None,
        }
    }

    /// The next record; `None` after the one with which the job has ended. While NATS is away, this
    /// waits. Dropping the future loses no record.
    ///
    /// # Errors
    /// See [`WaitError`]; after an error, this may be called again.
    pub(crate) async fn next(&mut self) -> Result<Option<JobRecord>, WaitError> {
        if let Some((_, _, state, _)) = self.last
            && state.is_final()
        {
            return Ok(None);
        }
        loop {
            let record = self.any_record().await?;
            let now = (record.run, record.attempt, record.state, record.at);
            if self.last != Some(now) {
                self.last = Some(now);
                return Ok(Some(record));
            }
        }
    }

    /// The record with which the job ends.
    ///
    /// # Errors
    /// See [`Follow::next`].
    pub(crate) async fn end(&mut self) -> Result<JobRecord, WaitError> {
        loop {
            let record = self.any_record().await?;
            if record.state.is_final() {
                return Ok(record);
            }
        }
    }

    /// The record by look-up or by event; it may be one that was returned before.
    async fn any_record(&mut self) -> Result<JobRecord, WaitError> {
        loop {
            // It listens before it looks, so that no record is missed between the two.
            let events = match &mut self.events {
                Some(events) => events,
                events => events.insert(Events::of(&self.client, self.id).await?),
            };
            if self.look_at <= Instant::now() {
                self.connected.borrow_and_update();
                match look_up(&self.client, self.id).await {
                    Ok(record) => {
                        (self.unanswered, self.look_at) = (None, Instant::now() + AGAIN);
                        if let Some(record) = record {
                            return Ok(record);
                        }
                    }
                    Err(error) => {
                        self.check(&error).await?;
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                event = events.records.next() => {
                    let event = event.ok_or(WaitError::Closed)?;
                    let record = records::decode(self.id, event.headers.as_ref(), &event.payload);
                    if let Ok(record) = record {
                        return Ok(record);
                    }
                }
                () = &mut events.refused => {
                    self.events = None;
                    return Err(WaitError::Forbidden(subjects::events(self.id)));
                }
                changed = self.connected.changed() => {
                    changed.map_err(|_| WaitError::Closed)?;
                    if *self.connected.borrow() {
                        self.look_at = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(self.look_at) => {}
            }
        }
    }

    /// Whether a failed look-up is worth another try: an outage is waited out.
    async fn check(&mut self, error: &anyhow::Error) -> Result<(), WaitError> {
        let error = match error.downcast_ref::<ApiError>() {
            Some(ApiError::Forbidden(subject)) => {
                return Err(WaitError::Forbidden(subject.clone()));
            }
            Some(error @ ApiError::NoAnswer { .. }) => Some(error),
            _ => None,
        };
        match self.connected.has_changed() {
            Err(_) => return Err(WaitError::Closed),
            // The connection was lost, or is.
            Ok(changed) if changed || !*self.connected.borrow() => self.unanswered = None,
            Ok(_) => {}
        }
        let Some(error) = error else {
            self.unanswered = None;
            return Ok(());
        };
        if self.client.knows_refusals() {
            return Ok(());
        }
        let since = *self.unanswered.get_or_insert_with(Instant::now);
        if since.elapsed() >= UNANSWERED && self.client.is_answered(ROUND_TRIP).await {
            self.unanswered = None;
            return Err(WaitError::NoAnswer(error.to_string()));
        }
        Ok(())
    }
}

impl Events {
    async fn of(client: &NatsClient, id: JobId) -> Result<Self, WaitError> {
        let subject = subjects::events(id);
        let refused = client.refused(Operation::Subscribe, &subject);
        // The subject is valid, so an error says that the client has ended.
        let records = client.subscribe(subject).await;
        Ok(Self {
            records: records.map_err(|_| WaitError::Closed)?,
            refused: Box::pin(refused),
        })
    }
}
