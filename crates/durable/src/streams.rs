//! How much the lane holds, and what is promised of it.

use bootstrap::Client;
use common::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{self, ApiError};
use crate::doctor;
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

#[derive(Deserialize)]
struct Info {
    config: Config,
    state: State,
}

#[derive(Deserialize)]
struct Config {
    max_bytes: i64,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    bytes: u64,
    first_ts: Timestamp,
}

/// How much each stream holds; `None` where there is no durable lane.
///
/// # Errors
/// When the server does not answer in time.
pub async fn streams(client: &Client) -> anyhow::Result<Option<Vec<StreamDepth>>> {
    let mut depths = Vec::new();
    for stream in Stream::ALL {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let Info { config, state } = match api::ask(client, subject, &Value::Null).await {
            Ok(info) => info,
            // Not yet, or not any more.
            Err(ApiError::Refused { .. } | ApiError::NoJetStream(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        depths.push(StreamDepth {
            stream,
            messages: state.messages,
            bytes: state.bytes,
            limit_bytes: u64::try_from(config.max_bytes)
                .ok()
                .filter(|limit| *limit > 0),
            oldest: (state.messages > 0).then_some(state.first_ts),
        });
    }
    Ok((!depths.is_empty()).then_some(depths))
}

/// What can be promised of durable jobs on this server.
///
/// # Errors
/// When the server does not answer in time.
pub async fn guarantees(client: &Client, topology: Topology) -> anyhow::Result<Guarantees> {
    let findings = doctor::examine(client, topology).await?;
    let jetstream = match api::ask::<Value>(client, "$JS.API.INFO".to_owned(), &Value::Null).await {
        Ok(_) => true,
        Err(ApiError::NoJetStream(_) | ApiError::Refused { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    let info = format!("$JS.API.STREAM.INFO.{}", Stream::Jobs);
    let replicas = match api::ask::<Value>(client, info, &Value::Null).await {
        Ok(info) => Some(info["config"]["num_replicas"].as_u64().unwrap_or(1)),
        Err(ApiError::NoJetStream(_) | ApiError::Refused { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Guarantees {
        jetstream,
        synced: doctor::is_synced(client).await?,
        replicas,
        findings: findings.iter().map(ToString::to_string).collect(),
    })
}
