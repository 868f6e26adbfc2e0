use bootstrap::Nats;

use crate::closed::ConnectionClosed;
use crate::submission::Submission;
use crate::submitter::{Finished, SubmitOptions, Submitter};
use crate::unconfirmed::{Sent, Unconfirmed};

/// The two ways of handing a job over, behind one face.
pub(crate) enum Delivery {
    Confirmed(Box<Submitter>),
    FireAndForget(Box<Unconfirmed>),
}

/// What happened to a job.
pub(crate) enum Event {
    Finished(Finished),
    Sent(Sent),
}

impl Delivery {
    pub(crate) async fn confirmed(nats: &Nats, options: SubmitOptions) -> anyhow::Result<Self> {
        let submitter = Submitter::new(nats, options).await?;
        Ok(Self::Confirmed(Box::new(submitter)))
    }

    pub(crate) fn fire_and_forget(nats: &Nats, by_kind: bool) -> Self {
        Self::FireAndForget(Box::new(Unconfirmed::new(nats, by_kind)))
    }

    /// How many jobs have not ended.
    pub(crate) fn under_way(&self) -> usize {
        match self {
            Self::Confirmed(submitter) => submitter.under_way(),
            Self::FireAndForget(unconfirmed) => unconfirmed.under_way(),
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::Confirmed(submitter) => submitter.has_room(),
            Self::FireAndForget(unconfirmed) => unconfirmed.has_room(),
        }
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        match self {
            Self::Confirmed(submitter) => submitter.submit(submission),
            Self::FireAndForget(unconfirmed) => unconfirmed.submit(submission),
        }
    }

    pub(crate) fn take_event(&mut self) -> Option<Event> {
        match self {
            Self::Confirmed(submitter) => submitter.take_finished().map(Event::Finished),
            Self::FireAndForget(unconfirmed) => unconfirmed.take_sent().map(Event::Sent),
        }
    }

    /// Works until there is an event, or the connection was lost or is back.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        match self {
            Self::Confirmed(submitter) => submitter.drive().await,
            Self::FireAndForget(unconfirmed) => unconfirmed.drive().await,
        }
    }
}
