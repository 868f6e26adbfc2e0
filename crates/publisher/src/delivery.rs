use bootstrap::Nats;

use crate::closed::ConnectionClosed;
use crate::stored::{Kept, StoreOptions, Stored};
use crate::submission::Submission;
use crate::submitter::{Finished, SubmitOptions, Submitter};
use crate::unconfirmed::{Sent, Unconfirmed};

/// The ways of handing a job over, behind one face.
pub(crate) enum Delivery {
    Confirmed(Box<Submitter>),
    FireAndForget(Box<Unconfirmed>),
    Durable(Box<Stored>),
}

/// What happened to a job.
pub(crate) enum Event {
    Finished(Finished),
    Sent(Sent),
    Kept(Kept),
}

impl Delivery {
    pub(crate) async fn confirmed(nats: &Nats, options: SubmitOptions) -> anyhow::Result<Self> {
        let submitter = Submitter::new(nats, options).await?;
        Ok(Self::Confirmed(Box::new(submitter)))
    }

    pub(crate) fn fire_and_forget(nats: &Nats, by_kind: bool) -> Self {
        Self::FireAndForget(Box::new(Unconfirmed::new(nats, by_kind)))
    }

    pub(crate) fn durable(nats: &Nats, options: StoreOptions) -> Self {
        Self::Durable(Box::new(Stored::new(nats, options)))
    }

    /// There are no more jobs, be it because something is bad.
    pub(crate) fn no_more(&mut self, bad: bool) {
        if let Self::Durable(stored) = self {
            stored.no_more(bad);
        }
    }

    /// How many jobs have not ended.
    pub(crate) fn under_way(&self) -> usize {
        match self {
            Self::Confirmed(submitter) => submitter.under_way(),
            Self::FireAndForget(unconfirmed) => unconfirmed.under_way(),
            Self::Durable(stored) => stored.under_way(),
        }
    }

    /// How many jobs may be on the wire at a time, where that follows what consumers take.
    pub(crate) fn window(&self) -> Option<usize> {
        match self {
            Self::Confirmed(submitter) => Some(submitter.window()),
            Self::FireAndForget(_) | Self::Durable(_) => None,
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::Confirmed(submitter) => submitter.has_room(),
            Self::FireAndForget(unconfirmed) => unconfirmed.has_room(),
            Self::Durable(stored) => stored.has_room(),
        }
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        match self {
            Self::Confirmed(submitter) => submitter.submit(submission),
            Self::FireAndForget(unconfirmed) => unconfirmed.submit(submission),
            Self::Durable(stored) => stored.submit(submission),
        }
    }

    pub(crate) fn take_event(&mut self) -> Option<Event> {
        match self {
            Self::Confirmed(submitter) => submitter.take_finished().map(Event::Finished),
            Self::FireAndForget(unconfirmed) => unconfirmed.take_sent().map(Event::Sent),
            Self::Durable(stored) => stored.take_kept().map(Event::Kept),
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
            Self::Durable(stored) => stored.drive().await,
        }
    }
}
