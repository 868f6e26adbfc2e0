//! Creates the durable consumers of kinds, paused if their kind is paused.

use bootstrap::NatsClient;
use common::{JobKind, KindSetting, Timestamp};
use jetstream::{Stream, Topology, kind_settings};

/// Creates the durable consumer of a kind on a stream, or updates it to match its declaration and the
/// setting of the kind, which has just been read. Returns its name.
pub(crate) async fn ensure(
    topology: Topology,
    client: &NatsClient,
    stream: Stream,
    kind: &JobKind,
    setting: Option<&KindSetting>,
) -> anyhow::Result<String> {
    let until = kind_settings::pause_until(setting, Timestamp::now());
    let name = topology
        .ensure_consumer(client, stream, kind, until)
        .await?;
    if setting.is_some() {
        // It may have existed before.
        kind_settings::enforce(client, stream, kind).await?;
    }
    Ok(name)
}
