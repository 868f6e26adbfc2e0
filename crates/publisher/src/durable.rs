use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_nats::HeaderMap;
use bootstrap::Nats;
use bootstrap::trace::Span;
use client::{NewJob, Patience, SubmitError, Submitted};
use common::{Outcome, OutcomeError, Status, codes, subjects};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::codes as own_codes;
use crate::connection_closed::ConnectionClosed;
use crate::outcome::unsuccessful;
use crate::submission::Submission;
use crate::trace;

/// Submits durable jobs: the server stores each of them once. Their outcomes are not waited for.
pub(crate) struct DurableSubmitter {
    submitter: client::Submitter,
    connection: watch::Receiver<bool>,
    connected: bool,
    in_flight: usize,
    /// The jobs so far that are stored as one batch, all or none; `None` if each is stored by itself,
    /// or the batch is being stored.
    batch: Option<Vec<(JobNumber, Submission)>>,
    storing: JoinSet<Vec<(JobNumber, StoreResult)>>,
    /// Jobs whose result is not known yet.
    under_way: HashMap<JobNumber, Submission>,
    /// How many jobs were submitted, and so the number of the last one.
    submitted: JobNumber,
    results: VecDeque<StoreResult>,
}

/// Counts submissions from 1. It tells jobs apart, because the input may hold the same id twice.
type JobNumber = u64;

/// A job that was stored or not.
pub(crate) struct StoreResult {
    pub(crate) submission: Submission,
    /// The error is what its line of the output says.
    pub(crate) result: Result<Submitted, Outcome>,
    /// Time from the submission to the server's answer.
    pub(crate) elapsed: Duration,
}

/// How a [`DurableSubmitter`] submits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurableOptions {
    /// The most jobs that are being stored at the same time.
    pub(crate) in_flight: usize,
    /// How long the server may take to confirm a job.
    pub(crate) confirm_timeout: Duration,
    /// Whether jobs wait without limit while the queue is full.
    pub(crate) wait_for_room: bool,
    /// Whether all jobs are stored as one batch, or none of them.
    pub(crate) all_or_none: bool,
}

impl DurableSubmitter {
    pub(crate) fn new(nats: &Nats, options: DurableOptions) -> Self {
        let patience = Patience {
            confirm: options.confirm_timeout,
            wait_for_nats: true,
            wait_for_room: options.wait_for_room,
        };
        let mut connection = nats.connected();
        let connected = *connection.borrow_and_update();
        Self {
            submitter: client::Submitter::new(nats, patience),
            connection,
            connected,
            in_flight: options.in_flight,
            batch: options.all_or_none.then(Vec::new),
            storing: JoinSet::new(),
            under_way: HashMap::new(),
            submitted: 0,
            results: VecDeque::new(),
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        // A batch takes any number of jobs here; one that is too large is refused when it is stored.
        self.connected && (self.batch.is_some() || self.under_way.len() < self.in_flight)
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        self.submitted += 1;
        let number = self.submitted;
        self.under_way.insert(number, submission.clone());
        if let Some(batch) = &mut self.batch {
            batch.push((number, submission));
            return;
        }
        let (submitter, since) = (self.submitter.clone(), Instant::now());
        self.storing
            .spawn(async move { vec![(number, store(&submitter, submission, since).await)] });
    }

    /// Says that no more jobs will be submitted. Stores the batch, if there is one. If some jobs of
    /// the input are missing from it (`failed`), none of its jobs is stored.
    pub(crate) fn no_more(&mut self, failed: bool) {
        let Some(batch) = self.batch.take().filter(|jobs| !jobs.is_empty()) else {
            return;
        };
        let (submitter, since) = (self.submitter.clone(), Instant::now());
        self.storing
            .spawn(async move { store_batch(&submitter, batch, failed, since).await });
    }

    pub(crate) fn take_result(&mut self) -> Option<StoreResult> {
        self.results.pop_front()
    }

    /// Gives up all jobs that the server has not confirmed, and returns them with what the output
    /// says. The server may have stored them.
    pub(crate) fn abandon(&mut self) -> Vec<(Submission, Outcome)> {
        while let Some(joined) = self.storing.try_join_next() {
            self.add(joined);
        }
        self.storing.abort_all();
        let mut left: Vec<_> = self.under_way.drain().collect();
        left.sort_unstable_by_key(|(number, _)| *number);
        let left = left.into_iter().map(|(_, submission)| {
            let error = OutcomeError::new(
                codes::INTERRUPTED,
                "the publisher was stopped before the server had confirmed the job; it may be \
                 stored, and submitted again with the same id it is one job",
            );
            let outcome = unsuccessful(submission.id, Status::Failed, 0, error);
            (submission, outcome)
        });
        left.collect()
    }

    /// Works until a job was stored or not, or the connection was lost or restored.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        if !self.results.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            changed = self.connection.changed() => {
                changed.map_err(|_| ConnectionClosed)?;
                self.connected = *self.connection.borrow_and_update();
            }
            Some(joined) = self.storing.join_next() => {
                self.add(joined);
                // Jobs that were stored with one write end together.
                while let Some(joined) = self.storing.try_join_next() {
                    self.add(joined);
                }
            }
            else => std::future::pending().await,
        }
        Ok(())
    }

    /// Adds the results of a task. A panic of the task goes on here: otherwise its jobs would be
    /// under way for ever.
    fn add(&mut self, joined: Result<Vec<(JobNumber, StoreResult)>, JoinError>) {
        let results = joined.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Aborted, which happens in `abandon` only.
            Err(_) => Vec::new(),
        });
        for (number, result) in results {
            self.under_way.remove(&number);
            self.results.push_back(result);
        }
    }
}

/// Stores one job, which was submitted at `since`.
async fn store(
    submitter: &client::Submitter,
    submission: Submission,
    since: Instant,
) -> StoreResult {
    let span = trace::send(&submission, subjects::DURABLE);
    let result = submitter.submit(&new_job(&submission, &span)).await;
    let stored = StoreResult {
        result: result.map_err(|error| not_stored(&submission, &error)),
        submission,
        elapsed: since.elapsed(),
    };
    if let Err(outcome) = &stored.result {
        trace::end(span, outcome);
    }
    stored
}

/// Stores all jobs of a batch, or none of them; none also if the input `failed`.
async fn store_batch(
    submitter: &client::Submitter,
    batch: Vec<(JobNumber, Submission)>,
    failed: bool,
    since: Instant,
) -> Vec<(JobNumber, StoreResult)> {
    let result = if failed {
        Err(SubmitError::Refused(
            "none is stored, because not all lines are jobs".to_owned(),
        ))
    } else {
        let send = |(_, job): &(JobNumber, Submission)| trace::send(job, subjects::DURABLE);
        let mut spans: Vec<_> = batch.iter().map(send).collect();
        let jobs = batch.iter().zip(&spans);
        let jobs: Vec<_> = jobs.map(|((_, job), span)| new_job(job, span)).collect();
        let result = submitter.submit_all(&jobs).await;
        if result.is_err() {
            for span in &mut spans {
                span.failed(own_codes::NOT_STORED, "");
            }
        }
        result
    };
    let results = batch.into_iter().map(|(number, submission)| {
        let stored = StoreResult {
            result: match &result {
                Ok(()) => Ok(Submitted::Stored),
                Err(error) => Err(not_stored(&submission, error)),
            },
            submission,
            elapsed: since.elapsed(),
        };
        (number, stored)
    });
    results.collect()
}

fn new_job(submission: &Submission, span: &Span) -> NewJob {
    let mut headers = HeaderMap::new();
    span.put_into(&mut headers);
    NewJob {
        id: submission.id,
        fresh: submission.id_is_new,
        kind: submission.kind.clone(),
        priority: submission.terms.priority,
        run_at: submission.terms.run_at,
        unique: submission.unique.clone(),
        payload: submission.message.clone(),
        headers,
    }
}

/// What the output says of a job that was not stored, or may not have been.
fn not_stored(submission: &Submission, error: &SubmitError) -> Outcome {
    let code = match error {
        SubmitError::TooLarge { .. } | SubmitError::TooMany(_) => own_codes::TOO_LARGE,
        SubmitError::Full { .. } => codes::BUSY,
        SubmitError::Conflict { .. } | SubmitError::SameKey(_) => own_codes::UNIQUE_CONFLICT,
        _ => own_codes::NOT_STORED,
    };
    let status = match error {
        SubmitError::TooLarge { .. }
        | SubmitError::TooMany(_)
        | SubmitError::Refused(_)
        | SubmitError::Conflict { .. }
        | SubmitError::SameKey(_) => Status::Rejected,
        _ => Status::Failed,
    };
    let error = OutcomeError::new(code, error.to_string());
    unsuccessful(submission.id, status, 0, error)
}
