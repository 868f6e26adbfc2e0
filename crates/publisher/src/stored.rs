use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_nats::HeaderMap;
use bootstrap::Nats;
use bootstrap::trace::Span;
use client::{NewJob, Patience, SubmitError, Submitted, Submitter};
use common::{Outcome, OutcomeError, Status, codes, subjects};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::answer::{not_succeeded, own_codes};
use crate::closed::ConnectionClosed;
use crate::submission::Submission;
use crate::submitter::Finished;
use crate::trace;

/// Hands jobs over to the durable lane: each is stored once, and its end is not waited for.
pub(crate) struct Stored {
    submitter: Submitter,
    connected: watch::Receiver<bool>,
    up: bool,
    in_flight: usize,
    /// Where all jobs are to be stored, or none: those that were handed over so far.
    together: Option<Vec<(u64, Submission)>>,
    storing: JoinSet<Vec<(u64, Kept)>>,
    /// Those that have not ended, by a number of their own: the same id may come more than once.
    under_way: HashMap<u64, Submission>,
    submitted: u64,
    done: VecDeque<Kept>,
}

/// A job that was stored, or why it was not.
pub(crate) struct Kept {
    pub(crate) submission: Submission,
    pub(crate) result: Result<Submitted, Outcome>,
    /// From the hand-over to the answer.
    pub(crate) elapsed: Duration,
}

/// How jobs are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreOptions {
    /// How many are under way at the same time.
    pub(crate) in_flight: usize,
    /// How long the server may take to confirm a job.
    pub(crate) confirm_timeout: Duration,
    /// Whether a full queue is waited for, however long that takes.
    pub(crate) wait_for_room: bool,
    /// Whether all are stored, or none.
    pub(crate) all_or_none: bool,
}

impl Stored {
    pub(crate) fn new(nats: &Nats, options: StoreOptions) -> Self {
        let patience = Patience {
            confirm: options.confirm_timeout,
            wait_for_nats: true,
            wait_for_room: options.wait_for_room,
        };
        let mut connected = nats.connected();
        let up = *connected.borrow_and_update();
        Self {
            submitter: Submitter::new(nats, patience),
            connected,
            up,
            in_flight: options.in_flight,
            together: options.all_or_none.then(Vec::new),
            storing: JoinSet::new(),
            under_way: HashMap::new(),
            submitted: 0,
            done: VecDeque::new(),
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        // What is to be stored together is gathered, however much it is: too much is refused.
        self.up && (self.together.is_some() || self.under_way.len() < self.in_flight)
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        self.submitted += 1;
        let number = self.submitted;
        self.under_way.insert(number, submission.clone());
        if let Some(together) = &mut self.together {
            together.push((number, submission));
            return;
        }
        let submitter = self.submitter.clone();
        let since = Instant::now();
        self.storing.spawn(async move {
            let span = trace::send(&submission, subjects::DURABLE);
            let result = submitter.submit(&new_job(&submission, &span)).await;
            let kept = Kept {
                result: result.map_err(|error| outcome(&submission, &error)),
                submission,
                elapsed: since.elapsed(),
            };
            if let Err(outcome) = &kept.result {
                trace::end(span, outcome);
            }
            vec![(number, kept)]
        });
    }

    /// There are no more jobs: those that are to be stored together now are, unless one of them is
    /// a bad one.
    pub(crate) fn no_more(&mut self, bad: bool) {
        let Some(together) = self.together.take().filter(|jobs| !jobs.is_empty()) else {
            return;
        };
        let submitter = self.submitter.clone();
        let since = Instant::now();
        self.storing.spawn(async move {
            let result = if bad {
                Err(SubmitError::Refused(
                    "none is stored, because not all lines are jobs".to_owned(),
                ))
            } else {
                let send = |(_, job): &(u64, Submission)| trace::send(job, subjects::DURABLE);
                let mut spans: Vec<_> = together.iter().map(send).collect();
                let jobs = together.iter().zip(&spans);
                let jobs: Vec<_> = jobs.map(|((_, job), span)| new_job(job, span)).collect();
                let result = submitter.submit_all(&jobs).await;
                if result.is_err() {
                    for span in &mut spans {
                        span.failed(own_codes::NOT_STORED, "");
                    }
                }
                result
            };
            let kept = together.into_iter().map(|(number, submission)| {
                let kept = Kept {
                    result: match &result {
                        Ok(()) => Ok(Submitted::Stored),
                        Err(error) => Err(outcome(&submission, error)),
                    },
                    submission,
                    elapsed: since.elapsed(),
                };
                (number, kept)
            });
            kept.collect()
        });
    }

    pub(crate) fn take_kept(&mut self) -> Option<Kept> {
        self.done.pop_front()
    }

    /// Lets go of the jobs that were not confirmed, and names them; they may be stored all the same.
    pub(crate) fn abandon(&mut self) -> Vec<Finished> {
        while let Some(kept) = self.storing.try_join_next() {
            self.add(kept);
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
            Finished {
                outcome: not_succeeded(submission.id, Status::Failed, 0, error),
                submission,
                elapsed: Duration::ZERO,
                sent: 1,
            }
        });
        left.collect()
    }

    /// Works until a job is stored, or the connection was lost or is back.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        if !self.done.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            changed = self.connected.changed() => {
                changed.map_err(|_| ConnectionClosed)?;
                self.up = *self.connected.borrow_and_update();
            }
            Some(kept) = self.storing.join_next() => {
                self.add(kept);
                // Those of one batch end together.
                while let Some(kept) = self.storing.try_join_next() {
                    self.add(kept);
                }
            }
            else => std::future::pending().await,
        }
        Ok(())
    }

    fn add(&mut self, kept: Result<Vec<(u64, Kept)>, tokio::task::JoinError>) {
        // It is not aborted while it is waited for. A panic must not leave jobs under way for ever.
        let kept = kept.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Vec::new(),
        });
        for (number, kept) in kept {
            self.under_way.remove(&number);
            self.done.push_back(kept);
        }
    }
}

fn new_job(submission: &Submission, span: &Span) -> NewJob {
    let mut headers = HeaderMap::new();
    span.put_into(&mut headers);
    NewJob {
        id: submission.id,
        fresh: submission.fresh,
        kind: submission.kind.clone(),
        priority: submission.terms.priority,
        run_at: submission.terms.run_at,
        payload: submission.message.clone(),
        headers,
    }
}

/// What is said of a job that was not stored, or may not have been.
fn outcome(submission: &Submission, error: &SubmitError) -> Outcome {
    let code = match error {
        SubmitError::TooLarge { .. } | SubmitError::TooMany(_) => own_codes::TOO_LARGE,
        SubmitError::Full { .. } => codes::BUSY,
        _ => own_codes::NOT_STORED,
    };
    let status = match error {
        SubmitError::TooLarge { .. } | SubmitError::TooMany(_) | SubmitError::Refused(_) => {
            Status::Rejected
        }
        _ => Status::Failed,
    };
    let error = OutcomeError::new(code, error.to_string());
    not_succeeded(submission.id, status, 0, error)
}
