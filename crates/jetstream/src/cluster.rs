//! What is different where the server is part of a cluster.
//!
//! There, each stream has a leader, which may be another server than the one of the connection. Only the
//! leader has all that was stored: a follower answers a direct get with what it has, which may be older.
//! While a leader is elected (some seconds after its server was lost), a publish has no responders, and
//! a request to JetStream has no answer, not even a late one.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use connection::NatsClient;

/// How long JetStream may take to answer in a cluster: an election takes up to nine seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// After this time without an answer, a request is sent again: it may have had no leader to reach.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(2);

/// After this time, something is tried again that an election has refused.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Whether the server of the connection is part of a cluster.
#[must_use]
pub fn is_clustered(client: &NatsClient) -> bool {
    client.server_info().cluster.is_some()
}

/// Whether the server refuses only because it has no leader, or because other servers are away.
pub(crate) fn is_temporary(code: ErrorCode) -> bool {
    [
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_NOT_LEADER,
        ErrorCode::STREAM_OFFLINE,
        ErrorCode::CONSUMER_OFFLINE,
    ]
    .contains(&code)
}
