//! Finds kinds that have waiting jobs but no consumer.
//!
//! Messages of jobs that have ended are removed from the stream, so jobs that no consumer serves
//! become the oldest. Only a bounded number of the oldest jobs is examined.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bootstrap::{Beat, NatsClient};
use common::{JobKind, JobSubject, subjects};
use jetstream::request::PATIENCE;
use jetstream::{ServerClock, Stream, direct_get, is_served, kind_settings, manage};
use tracing::{debug, info, warn};

/// The average time between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// How long a look may take: it sends one request for each kind that it finds.
const LOOK: Duration = Duration::from_mins(1);

/// How many of the oldest jobs are examined.
const OLDEST: usize = 64;

/// The most bytes that are read of these jobs.
const MOST_BYTES: usize = 256 * 1024;

/// The kinds that the last look found; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KindsFound(Arc<Mutex<BTreeSet<JobKind>>>);

impl KindsFound {
    pub(crate) fn kinds(&self) -> Vec<JobKind> {
        self.lock().iter().cloned().collect()
    }

    /// Replaces the kinds. Logs each new kind, and when no kind is left.
    fn replace(&self, kinds: BTreeSet<JobKind>) {
        let mut known = self.lock();
        for kind in kinds.difference(&known) {
            warn!(job.kind = %kind, "durable jobs wait, and no consumer serves their kind");
        }
        if kinds.is_empty() && !known.is_empty() {
            info!("every waiting kind has a consumer again");
        }
        *known = kinds;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<JobKind>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct KindsWithoutConsumer {
    pub(crate) client: NatsClient,
    pub(crate) clock: Arc<ServerClock>,
    /// The kinds that this consumer serves itself.
    pub(crate) served: Vec<JobKind>,
    pub(crate) found: KindsFound,
}

impl KindsWithoutConsumer {
    pub(crate) async fn run(self, mut life: Beat) {
        loop {
            match life.during(LOOK, self.look()).await {
                Ok(kinds) => self.found.replace(kinds),
                Err(error) => debug!("cannot look for kinds without consumer: {error:#}"),
            }
            // Jitter, so that consumers that were started together do not look at the same time.
            let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
            life.during(wait, tokio::time::sleep(wait)).await;
        }
    }

    async fn look(&self) -> anyhow::Result<BTreeSet<JobKind>> {
        let mut kinds = BTreeSet::new();
        for (stream, filter) in [
            (Stream::Jobs, subjects::ALL_DURABLE),
            (Stream::Later, subjects::ALL_DUE),
        ] {
            for kind in self.kinds_of_oldest(stream, filter).await? {
                if !self.served.contains(&kind)
                    && !kinds.contains(&kind)
                    && is_served(&self.client, &kind, PATIENCE).await? == Some(false)
                    && !self.is_paused(&kind).await?
                {
                    kinds.insert(kind);
                }
            }
        }
        Ok(kinds)
    }

    /// Whether a kind is paused: then its jobs would wait although a consumer served it.
    async fn is_paused(&self, kind: &JobKind) -> anyhow::Result<bool> {
        let followed = kind_settings::followed(&self.client, kind).await?;
        Ok(followed.is_paused(self.clock.now()))
    }

    /// The kinds of the oldest jobs.
    async fn kinds_of_oldest(
        &self,
        stream: Stream,
        filter: &str,
    ) -> anyhow::Result<BTreeSet<JobKind>> {
        let jobs = direct_get::batch(&self.client, stream, filter, 1, OLDEST, MOST_BYTES).await;
        // A stream that does not exist holds no jobs.
        let jobs = manage::existing(jobs)?.unwrap_or_default();
        let subjects = jobs
            .iter()
            .filter_map(|job| JobSubject::parse(&job.subject));
        Ok(subjects.map(|subject| subject.kind).collect())
    }
}
