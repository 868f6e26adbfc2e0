use bootstrap::Nats;
use bootstrap::NatsClient;
use tokio::sync::watch;

use super::engine::Engine;
use super::finished::Finished;
use super::options::ConfirmedOptions;
use super::slots::Slots;
use crate::connection_closed::ConnectionClosed;
use crate::submission::Submission;

/// Submits jobs as requests, and sends them again until they have ended: at least once, as long as
/// the submitter lives.
///
/// A job keeps its id. It is sent again when no consumer was there, when the consumer was full or was
/// stopped, and when no reply came in time. Each wait is a random part of a growing one, as the job's
/// `backoff` says. The job fails after `max_attempts` and expires after its `deadline`. Any other
/// outcome is final. A consumer that refuses a job may ask for a longer wait, up to the `max` of the
/// job's `backoff` and 24 hours.
///
/// Two refusals do not count as an attempt, because they say nothing about the job:
/// - All consumers are full. They say so, end other jobs meanwhile, or answer on
///   `jobs.serves.<kind>`. The number of unanswered jobs follows what the consumers accept, so a
///   burst waits in the publisher. A job waits for as long as consumers are full, or until its
///   `deadline`. If jobs have waited for ten seconds, a line in the log says so, and again every ten
///   seconds.
/// - The connection to NATS was lost while the job had no reply. Nothing is sent until it is back;
///   then such jobs are sent again. Consumers may reconnect later, so for ten seconds an absent
///   consumer does not count either.
///
/// All replies arrive on one subscription. The last token of their subject holds the job's slot and
/// the number of the message. So a late reply still ends its job, and never another one.
///
/// Nothing happens unless [`ConfirmedSubmitter::drive`] or [`ConfirmedSubmitter::finished`] is
/// awaited. Both may be dropped and called again at any time.
pub(crate) struct ConfirmedSubmitter {
    engine: Engine,
    connected: watch::Receiver<bool>,
}

impl ConfirmedSubmitter {
    /// Prepares to submit over a connection.
    ///
    /// # Errors
    /// When the connection is closed.
    ///
    /// # Panics
    /// When `in_flight` is not 1 to 65,536.
    pub(crate) async fn new(nats: &Nats, options: ConfirmedOptions) -> anyhow::Result<Self> {
        assert!(
            (1..=Slots::<()>::MAX).contains(&options.in_flight),
            "in_flight is out of bounds"
        );
        Self::over(&nats.client, nats.connected(), options).await
    }

    async fn over(
        client: &NatsClient,
        mut connected: watch::Receiver<bool>,
        options: ConfirmedOptions,
    ) -> anyhow::Result<Self> {
        let up = *connected.borrow_and_update();
        Ok(Self {
            engine: Engine::new(client, up, options).await?,
            connected,
        })
    }

    /// The number of jobs that have not ended.
    #[must_use]
    pub(crate) fn under_way(&self) -> usize {
        self.engine.under_way()
    }

    /// The most jobs that may have no reply at the same time. It follows what consumers accept.
    #[must_use]
    pub(crate) fn window(&self) -> usize {
        self.engine.window()
    }

    /// Whether NATS is connected and fewer than `in_flight` jobs are under way.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        self.engine.has_room()
    }

    /// Adds a job. It is sent the next time this is driven.
    ///
    /// This works without a connection too, so a caller that bounds the number of jobs itself need
    /// not ask [`ConfirmedSubmitter::has_room`].
    ///
    /// # Panics
    /// When 65,536 jobs are under way.
    pub(crate) fn submit(&mut self, submission: Submission) {
        self.engine.submit(submission);
    }

    /// The next job that has ended; `None` if there is none now.
    pub(crate) fn take_finished(&mut self) -> Option<Finished> {
        self.engine.take_finished()
    }

    /// Sends jobs and reads replies until a job has ended, or the connection was lost or restored.
    ///
    /// # Errors
    /// When the connection is closed for good. Jobs may have ended before.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        let (engine, connected) = (&mut self.engine, &mut self.connected);
        tokio::select! {
            biased;
            changed = connected.changed() => {
                changed.map_err(|_| ConnectionClosed)?;
                let up = *connected.borrow_and_update();
                engine.connection_changed(up);
                Ok(())
            }
            result = std::future::poll_fn(|context| engine.poll(context)) => result,
        }
    }

    /// Gives up all jobs that have not ended, and returns them. A consumer that has received one may
    /// still run it.
    pub(crate) fn abandon(&mut self) -> Vec<Finished> {
        self.engine.abandon()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use common::MaxAttempts;
    use test_support::{DEADLINE, NatsServer};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_closed_for_good_is_an_error_and_jobs_are_named() {
        let nats = NatsServer::start().await;
        let client = nats.connect_as("publisher").await;
        let (_up, connected) = watch::channel(true);
        let options = ConfirmedOptions {
            in_flight: 8,
            confirm_timeout: Duration::from_mins(10),
            max_attempts: MaxAttempts::default(),
            by_kind: false,
        };
        let supervised = NatsClient::from(client.clone());
        let mut submitter = ConfirmedSubmitter::over(&supervised, connected, options)
            .await
            .unwrap();
        client.drain().await.unwrap();
        let job = Bytes::from_static(br#"{"kind":"a","backoff":{"initial":"1h","max":"1h"}}"#);
        submitter.submit(Submission::decode(job).unwrap());
        let ends = async {
            loop {
                if let Err(closed) = submitter.drive().await {
                    return closed;
                }
            }
        };
        let closed = tokio::time::timeout(DEADLINE, ends).await;
        assert_eq!(closed.expect("it hangs"), ConnectionClosed);
        assert_eq!(submitter.abandon().len(), 1);
    }
}
