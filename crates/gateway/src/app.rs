use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use bootstrap::{Context, Nats};
use client::{Queues, Submitter};
use common::{Fleet, FleetRequest};
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::auth::Access;
use crate::http::{Limits, Metrics, Problem};
use crate::system::{FleetCache, QueueCache, Safety};

/// What every request can use. Clones share it.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// What an [`App`] holds.
pub(crate) struct Shared {
    /// The part that exists before there is a connection to NATS.
    pub(crate) front: Arc<Front>,
    /// The connection to NATS.
    pub(crate) nats: Nats,
    /// Whether the NATS server may be trusted with durable jobs.
    pub(crate) safety: Safety,
    /// Submits durable jobs; jobs that come at the same time are stored together.
    pub(crate) submitter: Submitter,
    /// See [`App::fleet`].
    pub(crate) fleet_cache: FleetCache,
    /// See [`App::queues`].
    pub(crate) queue_cache: QueueCache,
    /// See [`App::dead_letter_changes`].
    pub(crate) dead_letter_changes: AtomicU64,
}

/// What accepts requests, also before there is a connection to NATS.
pub(crate) struct Front {
    /// This instance.
    pub(crate) context: Context,
    /// Who is let in.
    pub(crate) access: Access,
    /// What clients may cost.
    pub(crate) limits: Limits,
    /// Counts requests, and measures how long they take.
    pub(crate) metrics: Metrics,
    /// Work that is finished even if its client goes away: see [`App::finish`].
    pub(crate) to_finish: TaskTracker,
}

impl App {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Finishes work that takes several writes, even if the client that asked for it goes away. The
    /// gateway waits for it before it stops.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        self.to_finish.spawn(work).await.unwrap_or_else(|error| {
            error!("a request ended by a panic: {error}");
            let text = "something went wrong in the gateway; its log says what";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        })
    }

    /// The part of the fleet that a request asks for.
    ///
    /// # Errors
    /// When NATS is away, or no status service answers.
    pub(crate) async fn fleet(&self, request: &FleetRequest) -> Result<Arc<Fleet>, Problem> {
        self.check_nats()?;
        self.fleet_cache.get(&self.nats.client, request).await
    }

    /// The queues of durable jobs, at most two seconds old.
    ///
    /// # Errors
    /// When NATS is away, or does not answer in time.
    pub(crate) async fn queues(&self) -> Result<Arc<Queues>, Problem> {
        self.check_nats()?;
        self.queue_cache.get(&self.nats.client).await
    }

    /// Notes that this gateway has replayed or discarded dead letters.
    pub(crate) fn dead_letters_changed(&self) {
        self.dead_letter_changes.fetch_add(1, Ordering::Release);
    }

    /// How often this gateway has replayed or discarded dead letters: what was read of them before the
    /// number changed is out of date.
    pub(crate) fn dead_letter_changes(&self) -> u64 {
        self.dead_letter_changes.load(Ordering::Acquire)
    }

    /// Refuses durable jobs where the server may lose what it has confirmed.
    ///
    /// # Errors
    /// See [`Safety::check`].
    pub(crate) async fn check_safety(&self) -> Result<(), Problem> {
        self.safety.check(&self.nats.client).await
    }

    /// Refuses a request at once while NATS is away, so that it does not wait for an answer.
    ///
    /// # Errors
    /// While there is no connection to NATS.
    pub(crate) fn check_nats(&self) -> Result<(), Problem> {
        if *self.nats.connected().borrow() {
            return Ok(());
        }
        Err(no_connection())
    }
}

/// The answer to every request while NATS is away.
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
