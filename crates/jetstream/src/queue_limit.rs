//! The limit of the queue in bytes, which the server enforces only while the queue is large.
//!
//! With `max_bytes` and `discard: new`, the server (2.15.1) adds up the whole batch so far for each of
//! its messages. In a batch of 4,000 submissions this costs more than everything else that the server
//! does for them. So consumers lift the limit while the queue is small, and set it again before the
//! queue is full, and when they stop. The metadata of the stream keeps the limit meanwhile. Submitters
//! heed it too, in case that all consumers were killed.

use connection::NatsClient;
use serde_json::{Value, json};
use tracing::debug;

use crate::manage::{self, StreamInfo};
use crate::request::{self, ApiError};
use crate::topology::{Stream, declared_limit};

/// A smaller limit is never lifted: the queue could pass it before a consumer looks.
const LEAST_TO_LIFT: u64 = 256 << 20;

/// The queue and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// The size of the queue in bytes.
    pub bytes: u64,
    /// The limit in bytes; `None` if the queue has none.
    pub limit: Option<u64>,
    /// Whether the server enforces the limit now.
    pub in_force: bool,
}

impl QueueLimit {
    /// Reads the limit of a stream.
    #[must_use]
    pub fn of(info: &StreamInfo) -> Self {
        let enforced = info.config["max_bytes"].as_u64().filter(|limit| *limit > 0);
        Self {
            bytes: info.state.bytes,
            limit: enforced.or_else(|| declared_limit(&info.config)),
            in_force: enforced.is_some(),
        }
    }

    /// Whether the queue holds as much as it may.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.limit.is_some_and(|limit| self.bytes >= limit)
    }

    /// Whether the server should enforce the limit. Between a quarter and a half of the limit, nothing
    /// is changed, so that the stream is not updated again and again.
    fn should_be_in_force(&self) -> bool {
        let Some(limit) = self.limit else {
            return false;
        };
        limit < LEAST_TO_LIFT
            || self.bytes >= limit / 2
            || (self.in_force && self.bytes >= limit / 4)
    }
}

/// Reads the size of the queue and its limit; `None` if there is no queue.
///
/// # Errors
/// See [`ApiError`].
pub async fn read(client: &NatsClient) -> Result<Option<QueueLimit>, ApiError> {
    let info = manage::existing(manage::stream_info(client, Stream::Jobs).await)?;
    Ok(info.map(|info| QueueLimit::of(&info)))
}

/// Has the server enforce the limit, or lifts it, as the size of the queue asks for.
///
/// # Errors
/// See [`ApiError`].
pub async fn adjust(client: &NatsClient) -> Result<(), ApiError> {
    enforce(client, QueueLimit::should_be_in_force).await
}

/// Has the server enforce the limit, whatever the size of the queue.
///
/// # Errors
/// See [`ApiError`].
pub async fn set(client: &NatsClient) -> Result<(), ApiError> {
    enforce(client, |_| true).await
}

async fn enforce(
    client: &NatsClient,
    should: impl Fn(&QueueLimit) -> bool,
) -> Result<(), ApiError> {
    let Some(info) = manage::existing(manage::stream_info(client, Stream::Jobs).await)? else {
        return Ok(());
    };
    // A stream without the metadata was declared by another version or another program.
    let (queue, Some(limit)) = (QueueLimit::of(&info), declared_limit(&info.config)) else {
        return Ok(());
    };
    let wanted = should(&queue);
    if wanted == queue.in_force {
        return Ok(());
    }
    let mut config = info.config;
    config["max_bytes"] = if wanted { json!(limit) } else { json!(-1) };
    let update = format!("$JS.API.STREAM.UPDATE.{}", Stream::Jobs);
    request::ask::<Value>(client, update, &config).await?;
    debug!(
        in_force = wanted,
        queue.bytes, limit, "changed whether the server enforces the limit of the queue"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn queue(bytes: u64, limit: u64, in_force: bool) -> QueueLimit {
        QueueLimit {
            bytes,
            limit: Some(limit),
            in_force,
        }
    }

    #[test]
    fn the_limit_is_in_force_while_the_queue_is_large_and_changes_rarely() {
        for (bytes, in_force, wanted) in [
            (0, true, false),
            (0, false, false),
            (GIB * 2 / 3, true, true),
            (GIB * 2 / 3, false, false),
            (GIB, false, true),
            (3 * GIB, false, true),
        ] {
            let queue = queue(bytes, 2 * GIB, in_force);
            assert_eq!(queue.should_be_in_force(), wanted, "{queue:?}");
        }
    }

    #[test]
    fn a_small_limit_is_always_in_force() {
        assert!(queue(0, 1_000_000, false).should_be_in_force());
        assert!(queue(0, 1_000_000, true).should_be_in_force());
    }
}
