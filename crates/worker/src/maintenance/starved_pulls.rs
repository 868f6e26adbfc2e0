//! Finds out when a consumer gets none of the jobs that wait for it.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, Nats};
use common::JobKind;
use jetstream::request::PATIENCE;
use jetstream::{Unanswered, manage};
use tracing::{info, warn};

use crate::fetch::Queue;

/// The respect in which such a service has a problem.
const RESPECT: &str = "pulls";

/// How long the look at one queue may take.
const LOOK: Duration = PATIENCE;

pub(crate) struct StarvedPulls {
    pub(crate) nats: Nats,
    /// Each queue, and for how long no pull of it has ended well.
    pub(crate) pulls: Vec<(Arc<Queue<JobKind>>, Unanswered)>,
    /// How long that may last while jobs wait.
    pub(crate) after: Duration,
}

impl StarvedPulls {
    /// Watches that pulls of each queue come to a good end: the server ends one after nine seconds at
    /// the latest.
    pub(crate) async fn run(self, mut life: Beat) {
        loop {
            life.tick().await;
            let problem = self.find(&mut life).await;
            let is_over = problem.is_none();
            let text = problem.clone().unwrap_or_default();
            if self.nats.health.set_problem(RESPECT, problem) {
                if is_over {
                    info!("durable jobs are pulled again");
                } else {
                    warn!("{text}: is the user in the configuration of NATS allowed to pull?");
                }
            }
        }
    }

    async fn find(&self, life: &mut Beat) -> Option<String> {
        for (queue, unanswered) in &self.pulls {
            let silent = unanswered.length();
            let Some(silent) = silent.filter(|silent| *silent > self.after) else {
                continue;
            };
            let asking = manage::consumer_info(&self.nats.client, queue.stream, &queue.consumer);
            let info = life.during(LOOK, asking).await;
            if let Some(waiting @ 1..) = info.ok().map(|info| info.num_pending) {
                return Some(format!(
                    "no pull of durable jobs of kind {} has come to a good end for {} s, and {waiting} wait",
                    queue.of,
                    silent.as_secs(),
                ));
            }
        }
        None
    }
}
