use bootstrap::Nats;
use common::Outcome;

use crate::confirmed::{ConfirmedOptions, ConfirmedSubmitter, Finished};
use crate::connection_closed::ConnectionClosed;
use crate::durable::{DurableOptions, DurableSubmitter, StoreResult};
use crate::fire_and_forget::{FireAndForgetSubmitter, Published};
use crate::submission::Submission;

/// The three ways to submit jobs, as `--delivery` names them, with one interface.
pub(crate) enum Delivery {
    Confirmed(Box<ConfirmedSubmitter>),
    FireAndForget(Box<FireAndForgetSubmitter>),
    Durable(Box<DurableSubmitter>),
}

/// What happened to a job.
pub(crate) enum DeliveryEvent {
    /// A confirmed job has ended.
    Finished(Finished),
    /// A fire-and-forget job was published, or refused.
    Published(Published),
    /// A durable job was stored, or not.
    Stored(StoreResult),
}

/// A job that is given up before its result is known.
pub(crate) struct Abandoned {
    pub(crate) submission: Submission,
    /// What its line of the output says; `None` for fire-and-forget jobs, which have no output.
    pub(crate) outcome: Option<Outcome>,
}

impl Delivery {
    pub(crate) async fn confirmed(nats: &Nats, options: ConfirmedOptions) -> anyhow::Result<Self> {
        let submitter = ConfirmedSubmitter::new(nats, options).await?;
        Ok(Self::Confirmed(Box::new(submitter)))
    }

    pub(crate) fn fire_and_forget(nats: &Nats, by_kind: bool) -> Self {
        Self::FireAndForget(Box::new(FireAndForgetSubmitter::new(nats, by_kind)))
    }

    pub(crate) fn durable(nats: &Nats, options: DurableOptions) -> Self {
        Self::Durable(Box::new(DurableSubmitter::new(nats, options)))
    }

    /// Says that no more jobs will be submitted. `failed` says that some jobs of the input are
    /// missing, so that a batch of all or none must not be stored.
    pub(crate) fn no_more(&mut self, failed: bool) {
        if let Self::Durable(submitter) = self {
            submitter.no_more(failed);
        }
    }

    /// The number of jobs whose result is not known yet.
    pub(crate) fn under_way(&self) -> usize {
        match self {
            Self::Confirmed(submitter) => submitter.under_way(),
            Self::FireAndForget(submitter) => submitter.under_way(),
            Self::Durable(submitter) => submitter.under_way(),
        }
    }

    /// The most confirmed jobs that may have no reply at the same time; `None` for the other ways.
    pub(crate) fn window(&self) -> Option<usize> {
        match self {
            Self::Confirmed(submitter) => Some(submitter.window()),
            Self::FireAndForget(_) | Self::Durable(_) => None,
        }
    }

    /// Whether one more job may be submitted now.
    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::Confirmed(submitter) => submitter.has_room(),
            Self::FireAndForget(submitter) => submitter.has_room(),
            Self::Durable(submitter) => submitter.has_room(),
        }
    }

    /// Adds a job. It is sent the next time this is driven.
    pub(crate) fn submit(&mut self, submission: Submission) {
        match self {
            Self::Confirmed(submitter) => submitter.submit(submission),
            Self::FireAndForget(submitter) => submitter.submit(submission),
            Self::Durable(submitter) => submitter.submit(submission),
        }
    }

    /// The next event; `None` if there is none now.
    pub(crate) fn take_event(&mut self) -> Option<DeliveryEvent> {
        match self {
            Self::Confirmed(submitter) => submitter.take_finished().map(DeliveryEvent::Finished),
            Self::FireAndForget(submitter) => {
                submitter.take_published().map(DeliveryEvent::Published)
            }
            Self::Durable(submitter) => submitter.take_result().map(DeliveryEvent::Stored),
        }
    }

    /// Works until there is an event, or the connection was lost or restored.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        match self {
            Self::Confirmed(submitter) => submitter.drive().await,
            Self::FireAndForget(submitter) => submitter.drive().await,
            Self::Durable(submitter) => submitter.drive().await,
        }
    }

    /// Gives up all jobs whose result is not known yet, and returns them.
    pub(crate) fn abandon(&mut self) -> Vec<Abandoned> {
        match self {
            Self::Confirmed(submitter) => {
                let jobs = submitter.abandon().into_iter();
                jobs.map(|job| Abandoned {
                    submission: job.submission,
                    outcome: Some(job.outcome),
                })
                .collect()
            }
            Self::FireAndForget(submitter) => {
                let jobs = submitter.abandon().into_iter();
                jobs.map(|submission| Abandoned {
                    submission,
                    outcome: None,
                })
                .collect()
            }
            Self::Durable(submitter) => {
                let jobs = submitter.abandon().into_iter();
                jobs.map(|(submission, outcome)| Abandoned {
                    submission,
                    outcome: Some(outcome),
                })
                .collect()
            }
        }
    }
}
