//! How much the lane holds, which kinds wait, and what is promised of it.

use std::collections::BTreeMap;

use async_nats::Client;
use common::{JobKind, Timestamp};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{self, ApiError};
use crate::direct;
use crate::doctor;
use crate::topology::{Stream, Topology, consumer_name, jobs_of_kind};

/// Of how many queues it is looked up since when their first job waits.
const MOST_OLDEST: usize = 50;

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

/// The jobs of one kind that wait or run.
#[derive(Clone, Debug)]
pub struct Queue {
    /// The kind.
    pub kind: JobKind,
    /// Jobs that wait for a consumer.
    pub waiting: u64,
    /// Jobs that are with consumers.
    pub running: u64,
    /// Those of them that were delivered more than once.
    pub redelivered: u64,
    /// Since when the first of those that wait has been there, as far as it was looked up.
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

#[derive(Deserialize)]
struct Consumers {
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<Consumer>>,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    delivered: Delivered,
    num_pending: u64,
    num_ack_pending: u64,
    num_redelivered: u64,
}

#[derive(Deserialize)]
struct Delivered {
    stream_seq: u64,
}

/// The kinds that have a queue, those with the most jobs first; at most `most`.
///
/// # Errors
/// When the server does not answer in time.
pub async fn queues(client: &Client, most: usize) -> anyhow::Result<Vec<Queue>> {
    let mut queues: BTreeMap<JobKind, (Queue, Vec<(Stream, u64)>)> = BTreeMap::new();
    for stream in [Stream::Jobs, Stream::Later] {
        for consumer in consumers(client, stream).await? {
            // Others may have durable consumers of their own.
            let Ok(kind) = consumer.name.replace('=', ".").parse::<JobKind>() else {
                continue;
            };
            if consumer_name(&kind) != consumer.name {
                continue;
            }
            let (queue, ahead) = queues.entry(kind.clone()).or_insert_with(|| {
                let queue = Queue {
                    kind,
                    waiting: 0,
                    running: 0,
                    redelivered: 0,
                    oldest: None,
                };
                (queue, Vec::new())
            });
            queue.waiting += consumer.num_pending;
            queue.running += consumer.num_ack_pending;
            queue.redelivered += consumer.num_redelivered;
            if consumer.num_pending > 0 {
                ahead.push((stream, consumer.delivered.stream_seq + 1));
            }
        }
    }
    let mut queues: Vec<_> = queues.into_values().collect();
    queues.sort_by_key(|(queue, _)| std::cmp::Reverse((queue.waiting, queue.running)));
    queues.truncate(most);
    let waiting = queues.iter_mut().filter(|(queue, _)| queue.waiting > 0);
    let oldest = waiting.take(MOST_OLDEST).map(async |(queue, ahead)| {
        for (stream, from) in ahead.drain(..) {
            let filter = jobs_of_kind(stream, &queue.kind);
            let first = direct::next(client, stream, &filter, from).await?;
            let first = first.map(|kept| kept.at);
            queue.oldest = match (queue.oldest, first) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        Ok::<_, ApiError>(())
    });
    for looked_up in join_all(oldest).await {
        looked_up?;
    }
    Ok(queues.into_iter().map(|(queue, _)| queue).collect())
}

/// All durable consumers of a stream; none where it is not there.
async fn consumers(client: &Client, stream: Stream) -> anyhow::Result<Vec<Consumer>> {
    let mut all = Vec::new();
    loop {
        let subject = format!("$JS.API.CONSUMER.LIST.{stream}");
        let offset = json!({"offset": all.len()});
        let page: Consumers = match api::ask(client, subject, &offset).await {
            Ok(page) => page,
            Err(ApiError::Refused { .. } | ApiError::NoJetStream(_)) => return Ok(all),
            Err(error) => return Err(error.into()),
        };
        let found = page.consumers.unwrap_or_default();
        let over = found.is_empty();
        all.extend(found);
        if over || all.len() >= page.total {
            return Ok(all);
        }
    }
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
