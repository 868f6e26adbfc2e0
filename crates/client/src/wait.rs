//! Waits for the end of a job.

use std::time::Duration;

use anyhow::Context as _;
use common::{JobId, JobRecord, subjects};
use connection::NatsClient;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::lookup::look_up;

/// How the wait for a job ended.
#[derive(Debug)]
pub enum Waited {
    /// The job has ended; this is its last record.
    Ended(Box<JobRecord>),
    /// The job has not ended in time; this is its record now, if the job is known.
    NotYet(Option<Box<JobRecord>>),
}

/// Waits until a job has ended. The job may be submitted after the wait begins.
///
/// The events of the job are subscribed to before the job is looked up, so that no end is missed
/// between the two. It is looked up again after a lost connection, and when `patience` is over.
///
/// # Errors
/// When the server does not answer in time.
pub async fn wait(
    client: &NatsClient,
    mut connected: tokio::sync::watch::Receiver<bool>,
    id: JobId,
    patience: Duration,
) -> anyhow::Result<Waited> {
    let until = Instant::now() + patience;
    let mut events = client.subscribe(subjects::events(id)).await?;
    loop {
        connected.borrow_and_update();
        let known = look_up(client, id).await?;
        if let Some(record) = known
            && record.state.is_final()
        {
            return Ok(Waited::Ended(Box::new(record)));
        }
        loop {
            tokio::select! {
                event = events.next() => {
                    let event = event.context("the connection to NATS is closed")?;
                    let record = serde_json::from_slice::<JobRecord>(&event.payload);
                    if let Ok(record) = record
                        && record.state.is_final()
                    {
                        return Ok(Waited::Ended(Box::new(record)));
                    }
                }
                changed = connected.changed() => {
                    changed.context("the connection to NATS is closed")?;
                    if *connected.borrow() {
                        break;
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    let known = look_up(client, id).await?;
                    return Ok(match known {
                        Some(record) if record.state.is_final() => {
                            Waited::Ended(Box::new(record))
                        }
                        known => Waited::NotYet(known.map(Box::new)),
                    });
                }
            }
        }
    }
}
