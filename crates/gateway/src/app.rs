use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use bootstrap::{Context, Nats};
use client::Submitter;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::access::Access;
use crate::fleet::FleetCache;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::safety::Safety;

/// What every request can use. Clones share it.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// What is in an [`App`].
pub(crate) struct Shared {
    /// What takes requests.
    pub(crate) front: Arc<Front>,
    /// The connection to NATS.
    pub(crate) nats: Nats,
    /// Whether its server is to be trusted with durable jobs.
    pub(crate) safety: Safety,
    /// Hands durable jobs over; those that come at the same time are stored together.
    pub(crate) submitter: Submitter,
    /// The fleet as a status service told it last.
    pub(crate) fleet: FleetCache,
    /// How often dead letters were replayed or discarded from here.
    pub(crate) letter_changes: AtomicU64,
}

/// What takes requests, also before there is a connection to NATS.
pub(crate) struct Front {
    /// This instance.
    pub(crate) context: Context,
    /// Who is let in.
    pub(crate) access: Access,
    /// What clients may cost.
    pub(crate) limits: Limits,
    /// What was asked, and how long that took.
    pub(crate) metrics: Metrics,
    /// What is brought to its end, also when its client goes away.
    pub(crate) to_finish: TaskTracker,
}

impl App {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Does something to its end, also when the client that asked for it goes away meanwhile: what
    /// takes several writes is not left half done. The gateway waits for it before it stops.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        self.to_finish.spawn(work).await.unwrap_or_else(|error| {
            error!("a request broke off: {error}");
            let text = "something went wrong in the gateway; its log says what";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        })
    }

    /// Dead letters were replayed or discarded from here: what is known of them is old.
    pub(crate) fn letters_changed(&self) {
        self.letter_changes.fetch_add(1, Ordering::Release);
    }

    /// What is known of dead letters is good for as long as this stays the same.
    pub(crate) fn letter_changes(&self) -> u64 {
        self.letter_changes.load(Ordering::Acquire)
    }

    /// Refuses durable jobs where the server may lose what it has confirmed.
    pub(crate) async fn check_safety(&self) -> Result<(), Problem> {
        self.safety.check(&self.nats.client).await
    }

    /// Says at once that NATS is away, instead of waiting for it.
    pub(crate) fn check_nats(&self) -> Result<(), Problem> {
        if *self.nats.connected().borrow() {
            return Ok(());
        }
        Err(no_connection())
    }
}

/// What is answered while NATS is away.
pub(crate) fn no_connection() -> Problem {
    Problem::away("there is no connection to NATS")
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}
