//! Finds out when a consumer gets none of the jobs that wait for it.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::Beat;
use serde::Deserialize;
use serde_json::Value;
use tracing::{info, warn};

use crate::api::{self, ApiError};
use crate::lane::Shared;
use crate::silence::Silence;

/// The respect in which such a service has a problem.
const RESPECT: &str = "pulls";

/// How long the look at one queue may take.
const LOOK: Duration = api::PATIENCE;

/// Watches that pulls of each queue come to a good end: the server ends one after nine seconds at the
/// latest.
pub(crate) async fn watch(shared: Arc<Shared>, pulls: Vec<Silence>, mut life: Beat) {
    loop {
        life.tick().await;
        let mut problem = None;
        for (queue, silence) in pulls.iter().enumerate() {
            let silent = silence.length();
            let Some(silent) = silent.filter(|silent| *silent > shared.options.starved_after)
            else {
                continue;
            };
            if let Ok(waiting @ 1..) = life.during(LOOK, waiting(&shared, queue)).await {
                problem = Some(format!(
                    "no pull of durable jobs of kind {} has come to a good end for {} s, and {waiting} wait",
                    shared.kind_of(queue),
                    silent.as_secs(),
                ));
                break;
            }
        }
        let is_over = problem.is_none();
        let text = problem.clone().unwrap_or_default();
        if shared.nats.health.set_problem(RESPECT, problem) {
            if is_over {
                info!("durable jobs are pulled again");
            } else {
                warn!("{text}: is the user in the configuration of NATS allowed to pull?");
            }
        }
    }
}

/// How many jobs wait in a queue.
async fn waiting(shared: &Shared, queue: usize) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
    }
    let queue = &shared.queues[queue];
    let subject = format!("$JS.API.CONSUMER.INFO.{}.{}", queue.stream, queue.consumer);
    let info: Info = api::ask(&shared.client, subject, &Value::Null).await?;
    Ok(info.num_pending)
}
