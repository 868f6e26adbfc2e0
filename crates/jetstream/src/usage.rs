//! How much the streams hold, and what the server promises of durable jobs.

use bootstrap::Client;
use common::{Timestamp, subjects};

use crate::manage::{self, StreamInfo};
use crate::preflight;
use crate::topology::{Stream, Topology};

/// How much one stream holds.
#[derive(Clone, Debug)]
pub struct StreamDepth {
    /// The stream.
    pub stream: Stream,
    /// Its messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes that it takes, if it has a limit of its own.
    pub limit_bytes: Option<u64>,
    /// When its first message was stored.
    pub oldest: Option<Timestamp>,
}

/// What can be promised of durable jobs, as far as it can be seen.
#[derive(Clone, Debug, Default)]
pub struct Guarantees {
    /// Whether there is anything that stores jobs.
    pub jetstream: bool,
    /// Whether each write is on the disk before it is confirmed; `None` if the server does not say.
    pub synced: Option<bool>,
    /// On how many servers the queue is kept; `None` if it is not there.
    pub replicas: Option<u64>,
    /// What makes the promises doubtful.
    pub findings: Vec<String>,
}

/// How much each stream holds; `None` where there is no stream.
///
/// # Errors
/// When the server does not answer in time.
pub async fn streams(client: &Client) -> anyhow::Result<Option<Vec<StreamDepth>>> {
    let mut depths = Vec::new();
    for stream in Stream::ALL {
        // A consumer makes the streams when it starts.
        let Some(StreamInfo { config, state, .. }) =
            manage::existing(manage::stream_info(client, stream).await)?
        else {
            continue;
        };
        depths.push(StreamDepth {
            stream,
            messages: state.messages,
            bytes: state.bytes,
            limit_bytes: config["max_bytes"].as_u64().filter(|limit| *limit > 0),
            oldest: (state.messages > 0).then_some(state.first_time),
        });
    }
    Ok((!depths.is_empty()).then_some(depths))
}

/// What can be promised of durable jobs on this server.
///
/// # Errors
/// When the server does not answer in time.
pub async fn guarantees(client: &Client, topology: Topology) -> anyhow::Result<Guarantees> {
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
pub async fn storage(client: &Client) -> anyhow::Result<Option<Storage>> {
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
pub async fn dead_letters(client: &Client) -> anyhow::Result<Option<u64>> {
    let count = manage::count_subjects(client, Stream::State, subjects::ALL_DEAD).await;
    Ok(manage::existing(count)?)
}
