use std::process::ExitCode;
use std::sync::Arc;

use bootstrap::{Context, STILL};
use common::subjects::FLEET;
use common::{Fleet, Timestamp};
use tokio::sync::watch;
use tracing::info;

use crate::asking::Asker;
use crate::metrics::Metrics;
use crate::rounds::Rounds;
use crate::{Config, fleet_endpoint};

/// Asks the consumers every interval, and logs and serves the fleet, until the service is told to stop.
///
/// # Errors
/// When NATS refuses the connection, or it is closed for good.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let nats = context.connect("status").await?;
    let group = fleet_endpoint::QUEUE_GROUP.to_owned();
    let endpoint = context
        .register_endpoint(&nats, "fleet", group, FLEET)
        .await?;
    let mut asker = Asker::new(nats.client.clone()).await?;
    let instance = context.instance.clone();
    let about = Fleet::new(instance, Timestamp::now(), config.interval.get());
    let (view, latest_view) = watch::channel(Arc::new(about.clone()));
    let metrics = Metrics::default();
    context.monitor.register(metrics.clone());
    let mut rounds = Rounds::new(config.gone_after.get(), about, view, metrics);
    info!(
        interval = %config.interval,
        timeout = %config.timeout,
        gone_after = %config.gone_after,
        "asking consumers on jobs.status"
    );
    let client = nats.client.clone();
    let life = context.health.task("fleet", STILL);
    let max_payload = || client.max_payload();
    tokio::select! {
        ended = rounds.run(&context, &config, &nats, &mut asker) => ended?,
        // Beside the rounds, so that a request on jobs.fleet need not wait for consumers.
        () = fleet_endpoint::serve(endpoint, latest_view, max_payload, life) => {
            anyhow::bail!("the endpoint on {FLEET} has ended");
        }
    }
    rounds.log_totals();
    Ok(ExitCode::SUCCESS)
}
