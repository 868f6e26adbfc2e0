//! Jobs and handlers without a server, and with a clock that only the test moves.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use common::{
    Backoff, DeadReason, DecodeError, Job, JobId, JobKind, JobMessage, MaxAttempts, OutcomeError,
    Timestamp, WireDuration,
};
use futures_util::FutureExt as _;
use serde_json::value::RawValue;

use crate::any_handler::AnyHandler;
use crate::attempt_end::{AttemptEnd, Next};
use crate::handler::{Attempt, Handler};
use crate::registry::Registry;

/// The time-out of an attempt if neither the job nor its handler sets one: the default of a consumer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a consumer decides after an attempt at a durable job.
#[derive(Debug)]
#[non_exhaustive]
pub enum Decision<O> {
    /// The job has succeeded.
    Succeeded(
        /// The result.
        O,
    ),
    /// The attempt failed, and the job is tried again.
    Retry {
        /// Why it failed.
        error: OutcomeError,
        /// The wait before the next attempt. A consumer draws a random part of it, unless the handler
        /// has asked for this wait.
        at_most: Duration,
    },
    /// The job becomes a dead letter.
    Dead {
        /// Why.
        reason: DeadReason,
        /// What went wrong in the attempt; `None` if there was none.
        error: Option<OutcomeError>,
    },
    /// The job was not started, because its deadline had passed.
    Expired,
}

/// One attempt at a job of a [`Queue`].
///
/// ```
/// use consumer::Registry;
/// use consumer::testing::{Attempted, Queue};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let mut queue = Queue::new(Registry::built_in());
/// queue.submit_message(br#"{"kind": "echo", "payload": 7}"#)?;
/// let attempts: Vec<Attempted> = queue.run_due().await;
/// assert_eq!((attempts[0].kind.as_str(), attempts[0].number), ("echo", 1));
/// # Ok::<(), common::DecodeError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Attempted {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// When it was made, by the clock of the queue.
    pub at: Timestamp,
    /// What a consumer decides.
    pub decision: Decision<serde_json::Value>,
}

/// Makes the first of five attempts at a job, and returns what a consumer decides.
///
/// # Panics
/// When the job or its result cannot be written as JSON and read again.
pub async fn run<H: Handler>(handler: H, job: H::Job) -> Decision<<H::Job as Job>::Output> {
    let mut queue = Queue::new(Registry::new().with(handler));
    queue.submit(&job);
    let mut attempts = queue.run_due().await;
    match attempts.swap_remove(0).decision {
        Decision::Succeeded(result) => {
            Decision::Succeeded(serde_json::from_value(result).expect("the result can be read"))
        }
        Decision::Retry { error, at_most } => Decision::Retry { error, at_most },
        Decision::Dead { reason, error } => Decision::Dead { reason, error },
        Decision::Expired => Decision::Expired,
    }
}

/// Jobs, and the handlers that run them, with a clock that only [`Queue::advance`] and [`Queue::drain`]
/// move.
pub struct Queue {
    handlers: BTreeMap<JobKind, Box<dyn AnyHandler>>,
    now: Timestamp,
    jobs: Vec<Waiting>,
}

/// A job that waits.
struct Waiting {
    id: JobId,
    kind: JobKind,
    payload: Option<Box<RawValue>>,
    timeout: Option<WireDuration>,
    deadline: Option<Timestamp>,
    max_attempts: MaxAttempts,
    backoff: Backoff,
    due: Timestamp,
    /// The number of the next attempt, from 1.
    attempt: u32,
}

impl Queue {
    /// An empty queue for these handlers. Its clock shows the time of this call.
    ///
    /// # Panics
    /// When a kind is invalid or has two handlers.
    #[must_use]
    pub fn new(handlers: Registry) -> Self {
        Self {
            handlers: handlers
                .into_handlers()
                .unwrap_or_else(|mistakes| panic!("{mistakes}")),
            now: Timestamp::now(),
            jobs: Vec::new(),
        }
    }

    /// Adds a job with the default options.
    ///
    /// # Panics
    /// When the kind is invalid, or the job cannot be written as JSON.
    pub fn submit<J: Job>(&mut self, job: &J) -> JobId {
        let payload = serde_json::value::to_raw_value(job).expect("the job can be written");
        let kind = J::KIND.parse().unwrap_or_else(|error| panic!("{error}"));
        let mut message = JobMessage::new(kind);
        message.payload = Some(&payload);
        self.add(message)
    }

    /// Adds a job as it crosses the wire, with all its options.
    ///
    /// # Errors
    /// When the bytes are not a job; the error names the field.
    pub fn submit_message(&mut self, message: &[u8]) -> Result<JobId, DecodeError> {
        JobMessage::decode(message).map(|job| self.add(job))
    }

    fn add(&mut self, job: JobMessage<'_>) -> JobId {
        let id = job.id.unwrap_or_else(JobId::generate);
        self.jobs.push(Waiting {
            id,
            kind: job.kind,
            payload: job.payload.map(ToOwned::to_owned),
            timeout: job.timeout,
            deadline: job.deadline,
            max_attempts: job.max_attempts.unwrap_or_default(),
            backoff: job.backoff.unwrap_or_default(),
            due: job.run_at.unwrap_or(self.now),
            attempt: 1,
        });
        id
    }

    /// How many jobs wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.jobs.len()
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Moves the clock.
    pub fn advance(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Makes one attempt at each job that is due now, in the order in which they are due.
    pub async fn run_due(&mut self) -> Vec<Attempted> {
        let now = self.now;
        let (mut due, later) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition::<Vec<_>, _>(|job| job.due <= now);
        due.sort_by_key(|job| job.due);
        self.jobs = later;
        let mut attempts = Vec::new();
        for job in due {
            attempts.push(self.attempt(job).await);
        }
        attempts
    }

    /// Makes all attempts that are due now or later, until no job waits. The clock moves on to each job
    /// that waits.
    pub async fn drain(&mut self) -> Vec<Attempted> {
        let mut attempts = Vec::new();
        while let Some(due) = self.jobs.iter().map(|job| job.due).min() {
            self.now = self.now.max(due);
            attempts.extend(self.run_due().await);
        }
        attempts
    }

    async fn attempt(&mut self, mut job: Waiting) -> Attempted {
        let decision = self.decide(&job).await;
        let attempted = Attempted {
            id: job.id,
            kind: job.kind.clone(),
            number: job.attempt,
            at: self.now,
            decision,
        };
        if let Decision::Retry { at_most, .. } = &attempted.decision {
            job.due = self.now.after(*at_most);
            job.attempt += 1;
            self.jobs.push(job);
        }
        attempted
    }

    async fn decide(&self, job: &Waiting) -> Decision<serde_json::Value> {
        if job.deadline.is_some_and(|deadline| deadline < self.now) {
            return Decision::Expired;
        }
        let Some(handler) = self.handlers.get(&job.kind) else {
            return Decision::Dead {
                reason: DeadReason::NoHandler,
                error: None,
            };
        };
        let timeout = job.timeout.map(WireDuration::get).or(handler.timeout());
        let timeout = timeout.unwrap_or(TIMEOUT);
        let attempt = Attempt {
            id: job.id,
            number: job.attempt,
            timeout,
            trace: None,
            cancelled: None,
        };
        let payload = job.payload.as_deref();
        let call = async { AttemptEnd::from(handler.call(payload, attempt, true).await) };
        let call = AssertUnwindSafe(call).catch_unwind();
        let end = tokio::time::timeout(timeout, call).await;
        let end = end.map_or_else(|_| AttemptEnd::timed_out(timeout), AttemptEnd::from_call);
        match end.next(job.attempt >= job.max_attempts.get()) {
            Next::Succeeded(result) => {
                let text = result.as_deref().map_or("null", RawValue::get);
                Decision::Succeeded(serde_json::from_str(text).expect("a result is JSON"))
            }
            Next::Retry { error, retry_after } => Decision::Retry {
                error,
                at_most: retry_after.unwrap_or_else(|| job.backoff.ceiling(job.attempt)),
            },
            Next::Dead { reason, error } => Decision::Dead {
                reason,
                error: Some(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use common::codes;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::handler::Failure;

    #[derive(Serialize, Deserialize)]
    struct Add(u32, u32);

    impl Job for Add {
        const KIND: &'static str = "add";
        type Output = u32;
    }

    struct Adder;

    impl Handler for Adder {
        type Job = Add;

        async fn handle(&self, Add(a, b): Add, attempt: Attempt) -> Result<u32, Failure> {
            assert_eq!(attempt.number, 1);
            match (a, b) {
                (0, 0) => Err(Failure::permanent(std::io::Error::other("nothing to add"))),
                (0, 1) => Err(Failure::Transient {
                    error: anyhow::anyhow!("away"),
                    retry_after: Some(Duration::from_secs(7)),
                }),
                (0, 2) => panic!("on purpose"),
                (0, 3) => std::future::pending().await,
                _ => Ok(a + b),
            }
        }

        fn timeout(&self) -> Option<Duration> {
            Some(Duration::from_millis(1))
        }
    }

    #[tokio::test]
    async fn one_attempt_ends_as_a_consumer_would_end_it() {
        let sum = run(Adder, Add(1, 2)).await;
        assert!(matches!(sum, Decision::Succeeded(3)), "{sum:?}");
        let dead = run(Adder, Add(0, 0)).await;
        let permanent = DeadReason::Permanent;
        assert!(
            matches!(&dead, Decision::Dead { reason, .. } if *reason == permanent),
            "{dead:?}"
        );
        for (job, code, wait) in [
            (Add(0, 1), codes::TRANSIENT, 7),
            (Add(0, 2), codes::PANIC, 1),
            (Add(0, 3), codes::TIMEOUT, 1),
        ] {
            match run(Adder, job).await {
                Decision::Retry { error, at_most } => {
                    assert_eq!((&*error.code, at_most.as_secs()), (code, wait));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_clock_of_a_queue_moves_to_each_retry_and_each_delay() {
        let away = async |_: Add| Err(Failure::transient(std::io::Error::other("away")));
        let mut queue = Queue::new(Registry::new().with_job(away));
        let started = queue.now();
        let at = started.after(Duration::from_hours(1));
        let message = format!(
            r#"{{"kind": "add", "payload": [1, 2], "max_attempts": 3, "run_at": "{at}",
                "backoff": {{"initial": "10s", "factor": 2, "max": "1h"}}}}"#
        );
        let id = queue.submit_message(message.as_bytes()).unwrap();
        assert!(queue.run_due().await.is_empty());
        assert_eq!(queue.waiting(), 1);
        queue.advance(Duration::from_hours(1));
        assert_eq!(queue.run_due().await.len(), 1);
        let rest = queue.drain().await;
        let numbers: Vec<_> = rest.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, [2, 3]);
        assert!(rest.iter().all(|attempt| attempt.id == id));
        // An hour, and the waits after the first attempts: 10 s and 20 s.
        assert_eq!(queue.now().since(started), Duration::from_secs(3630));
        assert!(matches!(
            rest[1].decision,
            Decision::Dead {
                reason: DeadReason::AttemptsUsedUp,
                ..
            }
        ));
    }

    #[tokio::test]
    async fn a_wrong_payload_a_kind_without_a_handler_and_a_late_job_are_not_run() {
        let mut queue = Queue::new(Registry::new().with(Adder));
        for message in [
            r#"{"kind": "add", "payload": "x"}"#,
            r#"{"kind": "subtract"}"#,
            r#"{"kind": "add", "payload": [1, 2], "deadline": "2020-01-01T00:00:00Z"}"#,
        ] {
            queue.submit_message(message.as_bytes()).unwrap();
        }
        assert!(queue.submit_message(b"{}").is_err());
        let attempts = queue.drain().await;
        let [wrong, unserved, late] = &attempts[..] else {
            panic!("{attempts:?}")
        };
        assert!(matches!(
            &wrong.decision,
            Decision::Dead { reason: DeadReason::Permanent, error: Some(error) }
                if error.code == codes::INVALID_PAYLOAD
        ));
        assert!(matches!(
            unserved.decision,
            Decision::Dead {
                reason: DeadReason::NoHandler,
                error: None
            }
        ));
        assert!(matches!(late.decision, Decision::Expired));
    }
}
