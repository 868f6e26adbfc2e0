use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
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
///
/// Jobs that come at the same time are submitted by one task: a task for each would cost more than all the
/// rest of its submission.
pub(crate) struct DurableSubmitter {
    submitter: client::Submitter,
    connection: watch::Receiver<bool>,
    connected: bool,
    in_flight: usize,
    /// Whether all jobs are stored as one batch, or none of them.
    all_or_none: bool,
    /// Jobs that no task has yet.
    gathered: Vec<Submission>,
    /// Whether some jobs of the input are missing from the batch of all or none.
    failed: bool,
    storing: JoinSet<Stored>,
    /// The jobs of each task.
    groups: HashMap<GroupNumber, Arc<Vec<Submission>>>,
    last_group: GroupNumber,
    /// How many jobs have no result yet.
    under_way: usize,
    results: VecDeque<StoreResult>,
}

/// A task submits at most so many jobs: more would wait for the slowest of them.
const MOST_OF_A_GROUP: usize = 512;

/// Counts groups from 1.
type GroupNumber = u64;

/// What a task returns.
struct Stored {
    group: GroupNumber,
    /// A result for each job of the group.
    results: Vec<StoredOrNot>,
    elapsed: Duration,
}

/// The error is what the line of the job in the output says.
pub(crate) type StoredOrNot = Result<Submitted, Box<Outcome>>;

/// A job that was stored or not.
pub(crate) struct StoreResult {
    pub(crate) submission: Submission,
    pub(crate) result: StoredOrNot,
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
            all_or_none: options.all_or_none,
            gathered: Vec::new(),
            failed: false,
            storing: JoinSet::new(),
            groups: HashMap::new(),
            last_group: 0,
            under_way: 0,
            results: VecDeque::new(),
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(crate) fn has_room(&self) -> bool {
        // A batch takes any number of jobs here; one that is too large is refused when it is stored.
        self.connected && (self.all_or_none || self.under_way < self.in_flight)
    }

    /// Adds a job. It is sent with others that come at the same time.
    pub(crate) fn submit(&mut self, submission: Submission) {
        self.under_way += 1;
        // A job that may have to wait for a look-up or for its key does not delay the results of others.
        let alone = !submission.id_is_new || submission.unique.is_some();
        if alone && !self.all_or_none {
            return self.send(vec![submission]);
        }
        self.gathered.push(submission);
        if !self.all_or_none && self.gathered.len() >= MOST_OF_A_GROUP {
            self.send_gathered();
        }
    }

    /// Says that no more jobs will be submitted. Stores the batch, if there is one. If some jobs of
    /// the input are missing from it (`failed`), none of its jobs is stored.
    pub(crate) fn no_more(&mut self, failed: bool) {
        self.failed = failed;
        self.send_gathered();
    }

    fn send_gathered(&mut self) {
        if !self.gathered.is_empty() {
            let jobs = std::mem::take(&mut self.gathered);
            self.send(jobs);
        }
    }

    fn send(&mut self, jobs: Vec<Submission>) {
        self.last_group += 1;
        let group = self.last_group;
        let jobs = Arc::new(jobs);
        self.groups.insert(group, Arc::clone(&jobs));
        let (submitter, since) = (self.submitter.clone(), Instant::now());
        let (all_or_none, failed) = (self.all_or_none, self.failed);
        self.storing.spawn(async move {
            let results = if all_or_none {
                store_all(&submitter, &jobs, failed).await
            } else {
                store_each(&submitter, &jobs).await
            };
            Stored {
                group,
                results,
                elapsed: since.elapsed(),
            }
        });
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
        self.under_way = 0;
        let mut groups: Vec<_> = self.groups.drain().collect();
        groups.sort_unstable_by_key(|(number, _)| *number);
        let sent = groups
            .into_iter()
            .flat_map(|(_, jobs)| Arc::unwrap_or_clone(jobs));
        let left = sent.chain(std::mem::take(&mut self.gathered));
        let left = left.map(|submission| {
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
        if !self.all_or_none {
            self.send_gathered();
        }
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
    fn add(&mut self, joined: Result<Stored, JoinError>) {
        let stored = match joined.map_err(JoinError::try_into_panic) {
            Ok(stored) => stored,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Aborted, which happens in `abandon` only.
            Err(Err(_)) => return,
        };
        let jobs = self.groups.remove(&stored.group).map(Arc::unwrap_or_clone);
        let results = jobs.into_iter().flatten().zip(stored.results);
        let results = results.map(|(submission, result)| StoreResult {
            submission,
            result,
            elapsed: stored.elapsed,
        });
        let before = self.results.len();
        self.results.extend(results);
        self.under_way -= self.results.len() - before;
    }
}

/// Stores jobs, each by itself.
async fn store_each(submitter: &client::Submitter, submissions: &[Submission]) -> Vec<StoredOrNot> {
    let (jobs, spans) = new_jobs(submissions);
    let results = submitter.submit_each(&jobs).await;
    let results = results.into_iter().zip(submissions).zip(spans);
    let results = results.map(|((result, submission), span)| {
        result.map_err(|error| {
            let outcome = Box::new(not_stored(submission, &error));
            trace::end(span, &outcome);
            outcome
        })
    });
    results.collect()
}

/// Stores all jobs, or none of them; none also if the input `failed`.
async fn store_all(
    submitter: &client::Submitter,
    submissions: &[Submission],
    failed: bool,
) -> Vec<StoredOrNot> {
    let result = if failed {
        Err(SubmitError::Refused(
            "none is stored, because not all lines are jobs".to_owned(),
        ))
    } else {
        let (jobs, mut spans) = new_jobs(submissions);
        let result = submitter.submit_all(&jobs).await;
        if result.is_err() {
            for span in &mut spans {
                span.failed(own_codes::NOT_STORED, "");
            }
        }
        result
    };
    let results = submissions.iter().map(|submission| match &result {
        Ok(()) => Ok(Submitted::Stored),
        Err(error) => Err(Box::new(not_stored(submission, error))),
    });
    results.collect()
}

/// The jobs as the client takes them, and the span of each.
fn new_jobs(submissions: &[Submission]) -> (Vec<NewJob>, Vec<Span>) {
    let jobs = submissions.iter().map(|submission| {
        let span = trace::send(submission, subjects::DURABLE);
        (new_job(submission, &span), span)
    });
    jobs.unzip()
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
