//! Lifts the limit of the queue while the queue is small; see [`jetstream::queue_limit`].

use std::time::Duration;

use bootstrap::{Beat, NatsClient};
use jetstream::queue_limit;
use tracing::debug;

use super::failures::Failures;
use crate::phases::Phases;

/// The average time between two looks. At 100,000 submissions of 500 bytes a second, the queue grows by
/// 100 MB meanwhile.
const PERIOD: Duration = Duration::from_secs(2);

/// How long a look may take.
const LOOK: Duration = Duration::from_mins(1);

pub(crate) struct LimitOfQueue {
    pub(crate) client: NatsClient,
    pub(crate) phases: Phases,
}

impl LimitOfQueue {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut failures = Failures::default();
        loop {
            let adjusted = life.during(LOOK, queue_limit::adjust(&self.client)).await;
            let what = "cannot compare the size of the queue with its limit";
            failures.note(what, adjusted.map_err(Into::into));
            // Jitter, so that consumers that were started together do not look at the same time.
            let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
            tokio::select! {
                () = life.during(wait, tokio::time::sleep(wait)) => {}
                () = self.phases.leaving() => break,
            }
        }
        // This may be the last consumer. Others lift the limit again.
        if let Err(error) = life.during(LOOK, queue_limit::set(&self.client)).await {
            debug!("cannot set the limit of the queue: {error:#}");
        }
        life.done();
    }
}
