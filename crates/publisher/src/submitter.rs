use std::time::Duration;

use bootstrap::Client;
use bootstrap::Nats;
use common::{MaxAttempts, Outcome};
use tokio::sync::watch;

use crate::closed::ConnectionClosed;
use crate::engine::Engine;
use crate::slots::Slots;
use crate::submission::Submission;

/// How a [`Submitter`] submits.
#[derive(Clone, Copy, Debug)]
pub struct SubmitOptions {
    /// How many jobs are held at the same time, waiting for an answer or for their next attempt;
    /// 1 to 65,536.
    pub in_flight: usize,
    /// How long an answer is waited for, unless the job's own time-out is longer.
    pub confirm_timeout: Duration,
    /// How often a job is submitted that does not say so itself.
    pub max_attempts: MaxAttempts,
    /// Whether a job goes to the subject of its kind, instead of the one for all kinds.
    pub by_kind: bool,
}

/// A job that was submitted, and what became of it.
#[derive(Debug)]
pub struct Finished {
    /// The job.
    pub submission: Submission,
    /// What became of it: a consumer's answer, or the publisher's own words where the consumer's
    /// name is empty.
    pub outcome: Outcome,
    /// From the hand-over to the end, with all attempts and the waits between them.
    pub elapsed: Duration,
    /// How often it was sent.
    pub sent: u32,
}

/// Submits jobs as requests, and again until they have ended: at least once, as long as it lives.
///
/// Each job keeps its id. It is submitted again, after a random part of a growing wait (the job's
/// `backoff`), when no consumer was there, when the consumer was busy or was stopped, and when no
/// answer came in time; up to its `max_attempts`, and not after its `deadline`. Any other outcome
/// is final. Whoever refuses a job may ask for a longer wait, up to the `max` of its `backoff` and
/// 24 hours.
///
/// Two things do not count as an attempt, because they say nothing of the job:
/// - to be refused for want of room, while consumers answer that they are busy, take other jobs or
///   say, on `jobs.serves`, that they are there. A burst waits for its turn here: the number of
///   jobs on the wire follows what the consumers take. It waits for as long as they say so; only
///   the job's `deadline` ends that. A job that has waited for ten seconds is mentioned in a log
///   line that comes every ten seconds;
/// - to be on the wire when the connection to NATS is lost. While it is, nothing is sent; when it
///   is back, such jobs are sent again. Consumers may not be back yet, so for ten seconds nobody
///   being there does not count either.
///
/// All answers arrive on one subscription, whose subject ends with the place and the number of what
/// was sent. So a late answer still ends its job, and no answer ends a wrong one.
///
/// The one who owns it drives it: nothing happens unless [`Submitter::drive`] or
/// [`Submitter::finished`] is awaited, and both may be dropped and called again at any time.
pub struct Submitter {
    engine: Engine,
    connected: watch::Receiver<bool>,
}

impl Submitter {
    /// Prepares to submit over a connection.
    ///
    /// # Errors
    /// When the connection is closed.
    ///
    /// # Panics
    /// When `in_flight` is not 1 to 65,536.
    pub async fn new(nats: &Nats, options: SubmitOptions) -> anyhow::Result<Self> {
        assert!(
            (1..=Slots::<()>::MAX).contains(&options.in_flight),
            "in_flight is out of bounds"
        );
        Self::over(&nats.client, nats.connected(), options).await
    }

    async fn over(
        client: &Client,
        mut connected: watch::Receiver<bool>,
        options: SubmitOptions,
    ) -> anyhow::Result<Self> {
        let up = *connected.borrow_and_update();
        Ok(Self {
            engine: Engine::new(client, up, options).await?,
            connected,
        })
    }

    /// How many jobs have not ended.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.engine.under_way()
    }

    /// How many jobs may be on the wire at a time, as far as is known of the consumers.
    #[must_use]
    pub fn window(&self) -> usize {
        self.engine.window()
    }

    /// Whether one more job can be submitted: there are fewer than `in_flight` under way, and NATS
    /// is there.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.engine.has_room()
    }

    /// Submits a job; it is sent when this is driven next.
    ///
    /// Without NATS this works too, so a caller need not look at [`Submitter::has_room`] if it
    /// keeps to the number of jobs by itself.
    ///
    /// # Panics
    /// When 65,536 jobs are under way.
    pub fn submit(&mut self, submission: Submission) {
        self.engine.submit(submission);
    }

    /// The next job that has ended, if there is one already.
    pub fn take_finished(&mut self) -> Option<Finished> {
        self.engine.take_finished()
    }

    /// Sends what may be sent and reads what was answered, until a job has ended, or the
    /// connection was lost or is back.
    ///
    /// # Errors
    /// When the connection is closed for good; jobs may have ended before.
    pub async fn drive(&mut self) -> Result<(), ConnectionClosed> {
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

    /// The next job that has ended, as soon as there is one; waits for ever if none is under way.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn finished(&mut self) -> Result<Finished, ConnectionClosed> {
        loop {
            if let Some(finished) = self.take_finished() {
                return Ok(finished);
            }
            self.drive().await?;
        }
    }

    /// Lets go of all jobs that have not ended, and names them. What a consumer has of them it
    /// still does.
    pub fn abandon(&mut self) -> Vec<Finished> {
        self.engine.abandon()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use test_support::{DEADLINE, NatsServer};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_closed_for_good_is_an_error_and_jobs_are_named() {
        let nats = NatsServer::start().await;
        let client = nats.connect_as("publisher").await;
        let (_up, connected) = watch::channel(true);
        let options = SubmitOptions {
            in_flight: 8,
            confirm_timeout: Duration::from_mins(10),
            max_attempts: MaxAttempts::default(),
            by_kind: false,
        };
        let mut submitter = Submitter::over(&client.clone().into(), connected, options)
            .await
            .unwrap();
        client.drain().await.unwrap();
        let job = Bytes::from_static(br#"{"kind":"a","backoff":{"initial":"1h","max":"1h"}}"#);
        submitter.submit(Submission::decode(job).unwrap());
        let finished = tokio::time::timeout(DEADLINE, submitter.finished()).await;
        let closed = finished.expect("it hangs").map(|finished| finished.outcome);
        assert_eq!(closed.unwrap_err(), ConnectionClosed);
        assert_eq!(submitter.abandon().len(), 1);
    }
}
