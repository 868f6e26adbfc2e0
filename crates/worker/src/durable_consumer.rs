//! Creates the durable consumers of kinds, paused if their kind is, or all kinds are.

use bootstrap::NatsClient;
use common::{JobKind, KindSetting, Priority, Timestamp};
use jetstream::kind_settings::{self, Followed};
use jetstream::{Stream, Topology, consumer_name, consumer_of_priority, priorities};
use tracing::warn;

/// Where the priorities of a kind have no durable consumers of their own, they start at the first message
/// of the stream: nobody has delivered it for them.
const FIRST: u64 = 1;

/// Creates the durable consumers of a kind on a stream, or updates them to match their declaration and the
/// settings that the kind follows, which have just been read. Returns their names.
pub(crate) async fn ensure(
    topology: Topology,
    client: &NatsClient,
    stream: Stream,
    kind: &JobKind,
    followed: &Followed,
) -> anyhow::Result<Vec<String>> {
    let until = followed.pause_until(Timestamp::now());
    let heeds = stream == Stream::Jobs && followed.heeds_priorities();
    // Before it is narrowed, one that is made again must not deliver what others deliver.
    let at_first = if heeds { kind_settings::far() } else { until };
    let narrowed = topology
        .ensure_consumer(client, stream, kind, at_first)
        .await?;
    let mut names = vec![consumer_name(kind)];
    if heeds || narrowed {
        if !heeds {
            // The setting was lost, but only these durable consumers deliver all jobs.
            heed(client, kind, Timestamp::now(), None).await?;
        }
        if let Err(error) = priorities::separate(client, topology, kind).await {
            // It is tried again every ten seconds or so.
            warn!(job.kind = %kind, "the priorities of a kind are not heeded yet: {error:#}");
            return Ok(names);
        }
        for priority in Priority::ALL {
            topology
                .ensure_consumer_of_priority(client, kind, priority, FIRST, kind_settings::far())
                .await?;
            names.push(consumer_of_priority(kind, priority));
        }
    }
    if !followed.is_empty() || narrowed {
        // They may have existed before.
        for name in &names {
            kind_settings::enforce(client, stream, kind, name).await?;
        }
    }
    Ok(names)
}

/// Stores that the priorities of a kind are heeded. `by` is the name of this consumer. Returns the setting.
pub(crate) async fn heed(
    client: &NatsClient,
    kind: &JobKind,
    at: Timestamp,
    by: Option<&str>,
) -> anyhow::Result<KindSetting> {
    let change = |setting: &mut KindSetting| {
        setting.priorities = true;
        if let Some(by) = by {
            setting.by = Some(by.to_owned());
        }
        Ok(())
    };
    kind_settings::change(client, kind, at, change).await
}
