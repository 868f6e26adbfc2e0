//! Gives each priority of a kind a durable consumer of its own.
//!
//! At first a kind has one durable consumer on `JOBS`, `<kind>`, for all its jobs. Here three more are made,
//! `<kind>~high`, `<kind>~normal` and `<kind>~low`, and `<kind>` gets a filter that no job matches. What it
//! has delivered before stays its own until it is acknowledged; the three deliver the rest.
//!
//! The split has to be exact: a job that no durable consumer delivers is lost, one that two deliver runs
//! twice. So `<kind>` is paused first, and delivers nothing more. The three start behind the last message
//! that it has delivered. The setting of the kind says that all this is to be done, and each step can be
//! repeated by any consumer, so it does not matter where one stops.
//!
//! Consumers of an older version must not run beside this: they remove all messages of a kind up to the
//! position of `<kind>`, and with them waiting jobs.

use std::iter;
use std::time::Duration;

use anyhow::ensure;
use common::{JobKind, Priority, subjects};
use connection::NatsClient;
use serde_json::json;
use tracing::{info, warn};

use crate::kind_settings::{self, Delivery};
use crate::topology::{Stream, Topology, consumer_name, consumer_of_priority, no_jobs_of_kind};
use crate::{direct_get, manage};

/// How long the durable consumer is paused before it is narrowed. The server (2.15.1) writes what was
/// delivered to the disk within a tenth of a second. If it crashed before that, it would not know that it
/// has to deliver these messages again, and no other durable consumer would.
const SETTLES: Duration = Duration::from_secs(2);

/// Makes the durable consumers for the priorities of a kind, unless there are.
///
/// # Errors
/// When the server refuses a step or does not answer in time, or somebody resumes the durable consumer
/// meanwhile: then try again.
pub async fn separate(
    client: &NatsClient,
    topology: Topology,
    kind: &JobKind,
) -> anyhow::Result<()> {
    let name = consumer_name(kind);
    let look = async || kind_settings::delivery(client, Stream::Jobs, &name).await;
    let Some(before) = look().await? else {
        // Whoever makes it comes here again.
        return Ok(());
    };
    if !before.is_of_all_priorities(kind) {
        return Ok(());
    }
    let pause = async |until| kind_settings::pause(client, Stream::Jobs, &name, until).await;
    if has_to_catch_up(client, kind, &before).await? {
        let followed = kind_settings::followed(client, kind).await?;
        return Ok(pause(followed.pause_until(before.now)).await?);
    }
    pause(kind_settings::far()).await?;
    let paused = look().await?;
    tokio::time::sleep(SETTLES).await;
    let (Some(paused), Some(settled)) = (paused, look().await?) else {
        return Ok(());
    };
    if settled.is_of_all_priorities(kind) {
        ensure!(
            settled.paused_until.is_some() && settled.delivered == paused.delivered,
            "somebody else has let the durable consumer {name} deliver"
        );
        for priority in Priority::ALL {
            let start = settled.delivered + 1;
            // Paused, because the kind may be paused meanwhile.
            let started = topology
                .ensure_consumer_of_priority(client, kind, priority, start, kind_settings::far())
                .await?;
            ensure!(
                started <= start || !has_before(client, kind, priority, started).await?,
                "the durable consumer {} starts too late",
                consumer_of_priority(kind, priority)
            );
        }
        let mut config = settled.config;
        config["filter_subject"] = json!(no_jobs_of_kind(kind));
        manage::create_consumer(client, Stream::Jobs, &name, &config, "update").await?;
        info!(job.kind = %kind, "the priorities of a kind are heeded from now on");
    }
    for consumer in iter::once(name.clone())
        .chain(Priority::ALL.map(|priority| consumer_of_priority(kind, priority)))
    {
        kind_settings::enforce(client, Stream::Jobs, kind, &consumer).await?;
    }
    Ok(())
}

/// Whether the durable consumer of a kind was made again, and jobs wait that only it can deliver: those from
/// before the others were made. Meanwhile, later jobs may be delivered twice.
async fn has_to_catch_up(
    client: &NatsClient,
    kind: &JobKind,
    wide: &Delivery,
) -> anyhow::Result<bool> {
    for priority in Priority::ALL {
        let name = consumer_of_priority(kind, priority);
        let there = kind_settings::delivery(client, Stream::Jobs, &name).await?;
        let start = there.and_then(|there| there.config["opt_start_seq"].as_u64());
        if let Some(start) = start.filter(|start| *start > wide.delivered + 1)
            && has_before(client, kind, priority, start).await?
        {
            warn!(job.kind = %kind, "a durable consumer was made again: until its old jobs have ended, priorities are not heeded and jobs may run twice");
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a job of a priority is stored before a sequence.
async fn has_before(
    client: &NatsClient,
    kind: &JobKind,
    priority: Priority,
    sequence: u64,
) -> anyhow::Result<bool> {
    let filter = subjects::durable_of_priority(priority, kind);
    let first = direct_get::next(client, Stream::Jobs, &filter, 1).await?;
    Ok(first.is_some_and(|first| first.sequence < sequence))
}
