use std::sync::Arc;
use std::time::Duration;

use bootstrap::Context;
use tracing::info;
use worker::{Lane, LaneEnd, LaneOptions, Topology};

use super::sink::Slots;
use crate::config::{Config, Durable};
use crate::consumer::Consumer;

/// How long pulls may fail while jobs wait before that is reported as a problem.
const STARVED_AFTER: Duration = Duration::from_mins(1);

/// Starts to take durable jobs; `None` if they are switched off or the server has no JetStream.
///
/// # Errors
/// When durable jobs are required and there is no JetStream, or its streams are not as declared.
pub(crate) async fn start(
    context: &Context,
    config: &Config,
    consumer: &Arc<Consumer>,
) -> anyhow::Result<Option<(Lane, LaneEnd)>> {
    if config.durable == Durable::Off {
        return Ok(None);
    }
    let options = LaneOptions {
        instance: consumer.instance.clone(),
        kinds: consumer.kinds.names().cloned().collect(),
        keep: config.keep_outcomes,
        keep_payload: config.keep_payload,
        topology: Topology {
            replicas: config.replicas.number(),
            ..Topology::default()
        },
        accept_unsafe: config.accept_unsafe_server,
        starved_after: STARVED_AFTER,
    };
    let sink = Arc::new(Slots(Arc::downgrade(consumer)));
    let lane = Lane::start(context, options, sink).await?;
    if lane.is_none() {
        anyhow::ensure!(
            config.durable != Durable::Required,
            "the server has no JetStream for this user, and --durable required asks for it"
        );
        info!("the server has no JetStream for this user: taking core jobs only");
    }
    if let Some((lane, _)) = &lane {
        consumer.durable.set_lane(lane.clone());
        lane.begin();
        info!("taking durable jobs");
    }
    Ok(lane)
}
