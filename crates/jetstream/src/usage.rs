//! How much the streams hold, and which guarantees the server can keep for durable jobs.

use common::{Timestamp, subjects};
use connection::NatsClient;

use crate::manage;
use crate::preflight;
use crate::queue_limit::QueueLimit;
use crate::topology::{Stream, Topology};

/// How much one stream holds.
#[derive(Clone, Debug)]
pub struct StreamDepth {
    /// The stream.
    pub stream: Stream,
    /// Its messages; of `JOBS` without the locks of unique jobs.
    pub messages: u64,
    /// Those of them that are no ticks of recurring schedules.
    pub without_ticks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes that it takes, if it has a limit of its own.
    pub limit_bytes: Option<u64>,
    /// When its first message was stored. In `JOBS` it may be the lock of a unique job that waits for its
    /// next run.
    pub oldest: Option<Timestamp>,
}

/// The guarantees of durable jobs on a server, as far as they can be verified.
#[derive(Clone, Debug, Default)]
pub struct Guarantees {
    /// Whether the server has JetStream, which stores jobs.
    pub jetstream: bool,
    /// Whether each write is on the disk before it is confirmed; `None` if the server does not say.
    pub synced: Option<bool>,
    /// On how many servers the queue is stored; `None` if the queue does not exist.
    pub replicas: Option<u64>,
    /// The settings that break or weaken the guarantees.
    pub findings: Vec<String>,
}

/// How much each stream holds; `None` if there are no streams.
///
/// # Errors
/// When the server does not answer in time.
pub async fn streams(client: &NatsClient) -> anyhow::Result<Option<Vec<StreamDepth>>> {
    let mut depths = Vec::new();
    for stream in Stream::ALL {
        let described = match stream {
            Stream::Jobs => {
                manage::stream_info_with_count(client, stream, subjects::ALL_UNIQUE).await
            }
            Stream::Later => {
                manage::stream_info_with_count(client, stream, subjects::ALL_TICKS).await
            }
            Stream::State | Stream::Advisories => {
                let info = manage::stream_info(client, stream).await;
                info.map(|info| (info, 0))
            }
        };
        // The stream may not exist yet: a consumer creates the streams when it starts.
        let Some((info, others)) = manage::existing(described)? else {
            continue;
        };
        let limit_bytes = QueueLimit::of(&info).limit;
        let state = info.state;
        let (locks, ticks) = match stream {
            Stream::Later => (0, others),
            _ => (others, 0),
        };
        depths.push(StreamDepth {
            stream,
            messages: state.messages.saturating_sub(locks),
            without_ticks: state.messages.saturating_sub(ticks),
            bytes: state.bytes,
            limit_bytes,
            oldest: (state.messages > 0).then_some(state.first_time),
        });
    }
    Ok((!depths.is_empty()).then_some(depths))
}

/// Reads which guarantees this server can keep for durable jobs.
///
/// # Errors
/// When the server does not answer in time.
pub async fn guarantees(client: &NatsClient, topology: Topology) -> anyhow::Result<Guarantees> {
    let findings = preflight::examine(client, topology).await?;
    let jetstream = manage::existing(manage::account(client).await)?.is_some();
    let queue = manage::existing(manage::stream_info(client, Stream::Jobs).await)?;
    let replicas = queue.map(|info| info.config["num_replicas"].as_u64().unwrap_or(1));
    Ok(Guarantees {
        jetstream,
        synced: preflight::is_synced(client).await?,
        replicas,
        findings: findings.iter().map(ToString::to_string).collect(),
    })
}

/// How much all streams of the account hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Stored bytes.
    pub bytes: u64,
    /// The most bytes that may be stored; `None` without a limit.
    pub limit_bytes: Option<u64>,
}

/// How much the account stores; `None` without JetStream.
///
/// # Errors
/// When the server does not answer in time.
pub async fn storage(client: &NatsClient) -> anyhow::Result<Option<Storage>> {
    let account = manage::existing(manage::account(client).await)?;
    Ok(account.map(|account| Storage {
        bytes: account.storage,
        limit_bytes: account
            .limits
            .max_storage
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0),
    }))
}

/// The number of dead letters, counted by the server; `None` without the stream.
///
/// The server counts their subjects each time, so do not ask every second.
///
/// # Errors
/// When the server does not answer in time.
pub async fn dead_letters(client: &NatsClient) -> anyhow::Result<Option<u64>> {
    let count = manage::count_subjects(client, Stream::State, subjects::ALL_DEAD).await;
    Ok(manage::existing(count)?)
}
