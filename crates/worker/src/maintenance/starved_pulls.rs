//! Detects that a consumer gets none of the jobs that wait for it.

use std::time::Duration;

use bootstrap::{Beat, Nats};
use jetstream::request::PATIENCE;
use jetstream::{kind_settings, manage};
use tracing::{info, warn};

use crate::queues::Queues;

/// The name of the health problem that this watch sets.
const RESPECT: &str = "pulls";

/// How long the look at one queue may take.
const LOOK: Duration = PATIENCE;

pub(crate) struct StarvedPulls {
    pub(crate) nats: Nats,
    pub(crate) queues: Queues,
    /// How long pulls may fail while jobs wait.
    pub(crate) after: Duration,
}

impl StarvedPulls {
    /// Watches whether the pulls of each queue succeed. The server ends a pull without messages
    /// after nine seconds at the latest, which counts as success.
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
                    warn!("{text}; check that the NATS configuration allows this user to pull");
                }
            }
        }
    }

    async fn find(&self, life: &mut Beat) -> Option<String> {
        for queue in self.queues.all() {
            let silent = queue.unanswered.length();
            let Some(silent) = silent.filter(|silent| *silent > self.after) else {
                continue;
            };
            let client = &self.nats.client;
            let asking = manage::consumer_info(client, queue.stream, &queue.consumer);
            let info = life.during(LOOK, asking).await;
            if let Some(waiting @ 1..) = info.ok().map(|info| info.num_pending) {
                // The jobs of a paused kind have to wait.
                let asking = kind_settings::is_held_back(client, queue.stream, &queue.consumer);
                if life
                    .during(LOOK, asking)
                    .await
                    .is_ok_and(|held_back| held_back)
                {
                    continue;
                }
                return Some(format!(
                    "no pull of durable jobs of kind {} has succeeded for {} s; jobs waiting: {waiting}",
                    queue.of,
                    silent.as_secs(),
                ));
            }
        }
        None
    }
}
