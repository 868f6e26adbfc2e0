//! The streams and durable consumers of durable jobs, declared in one place.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};
use bootstrap::Client;
use common::{JobKind, subjects};
use serde_json::{Map, Value, json};
use tracing::info;

use crate::request::{self, ApiError};

/// How long a delivered job stays with its consumer without a sign of life.
pub const ACK_WAIT: Duration = Duration::from_secs(15);

/// How often a message is delivered before the server gives it up. The consumers give it up long
/// before: this is for the case that they never get to it.
const MAX_DELIVER: i64 = 1000;

/// How many jobs of one kind may be with consumers at a time.
const MAX_ACK_PENDING: i64 = 65_536;

/// A stream of durable jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Jobs that wait for a consumer.
    Jobs,
    /// Jobs that wait for their time, and those whose time has come.
    Later,
    /// Records, requests to cancel, dead letters, and what the watch for overdue jobs needs.
    State,
    /// What the server says of messages that it gave up.
    Advisories,
}

/// What is declared: the streams with their bounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Topology {
    /// How much the streams may hold.
    pub limits: Limits,
    /// On how many servers of a cluster each stream is kept.
    pub replicas: Option<usize>,
}

/// How much the streams may hold. A full one refuses what is new, and forgets nothing.
///
/// Only the queue has a limit of its own, so that jobs which wait cannot take the room for what
/// becomes of them. The others are bounded by what the account may store: a limit of their own
/// would cost the server a third more for each record, since it adds up whole batches again and
/// again.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that wait or run, in bytes.
    pub jobs_bytes: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs_bytes: 2 << 30,
        }
    }
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Jobs, Self::Later, Self::State, Self::Advisories];

    /// Its name on the server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jobs => "JOBS",
            Self::Later => "JOBS_LATER",
            Self::State => "JOBS_STATE",
            Self::Advisories => "JOBS_ADVISORIES",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Topology {
    /// What a stream is to be like.
    fn stream(self, stream: Stream) -> Config {
        let names: &[&str] = match stream {
            Stream::Jobs => &[subjects::ALL_DURABLE],
            Stream::Later => &[subjects::ALL_LATER, subjects::ALL_DUE],
            Stream::State => &[
                subjects::ALL_STATES,
                subjects::ALL_CANCELS,
                subjects::ALL_DEAD,
                subjects::ALL_OVERDUE,
            ],
            Stream::Advisories => &[
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS_LATER.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.JOBS.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.JOBS_LATER.*",
            ],
        };
        let max_bytes = match stream {
            Stream::Jobs => self.limits.jobs_bytes,
            Stream::Later | Stream::State => -1,
            Stream::Advisories => 64 << 20,
        };
        Config {
            name: stream.name().to_owned(),
            subjects: names.iter().map(|&name| name.to_owned()).collect(),
            // Advisories are so few that each may be removed when it was seen to.
            retention: if stream == Stream::Advisories {
                RetentionPolicy::WorkQueue
            } else {
                RetentionPolicy::Limits
            },
            storage: StorageType::File,
            num_replicas: self.replicas.unwrap_or(1),
            max_bytes,
            max_messages: -1,
            max_messages_per_subject: if stream == Stream::Advisories { -1 } else { 1 },
            // A stream with schedules must not refuse what is new, so it would have to forget what
            // is old. Without a limit of its own it does neither.
            discard: if stream == Stream::Later {
                DiscardPolicy::Old
            } else {
                DiscardPolicy::New
            },
            // A job that is known is refused, by whatever client it is submitted again.
            discard_new_per_subject: stream == Stream::Jobs,
            max_consumers: -1,
            max_message_size: -1,
            allow_direct: true,
            allow_atomic_publish: stream != Stream::Advisories,
            allow_message_schedules: stream == Stream::Later,
            allow_message_ttl: stream == Stream::State,
            republish: (stream == Stream::State).then(|| Republish {
                source: subjects::ALL_STATES.to_owned(),
                destination: "jobs.events.{{wildcard(1)}}".to_owned(),
                headers_only: false,
            }),
            ..Config::default()
        }
    }

    /// Creates the streams that are missing, and adds subjects that are missing to a stream that is
    /// there. Nothing else of what is there is changed, and more subjects than these may be there: an
    /// older and a newer consumer run side by side.
    ///
    /// # Errors
    /// When there is no JetStream, when it refuses, and when a stream is there that differs otherwise
    /// from what is declared: the error names each field.
    pub async fn ensure(self, client: &Client) -> anyhow::Result<()> {
        for stream in Stream::ALL {
            self.ensure_stream(client, stream).await?;
        }
        Ok(())
    }

    async fn ensure_stream(self, client: &Client, stream: Stream) -> anyhow::Result<()> {
        let wanted = serde_json::to_value(self.stream(stream))
            .context("a stream's configuration is plain data")?;
        let create = format!("$JS.API.STREAM.CREATE.{stream}");
        let Err(error) = request::ask::<Value>(client, create.clone(), &wanted).await else {
            return Ok(());
        };
        // It may be there all the same: whether there is room for one more is looked at first.
        let ApiError::Refused { code, .. } = error else {
            return Err(error).with_context(|| format!("cannot create the stream {stream}"));
        };
        let info = format!("$JS.API.STREAM.INFO.{stream}");
        let Ok(mut info) = request::ask::<Value>(client, info, &Value::Null).await else {
            return Err(error).with_context(|| format!("cannot create the stream {stream}"));
        };
        let there = info["config"].take();
        let missing = missing_subjects(&wanted, &there);
        let subjects = [subjects_of(&there), missing.clone()].concat();
        let with_subjects = |config: &Value| {
            let mut config = config.clone();
            config["subjects"] = json!(subjects);
            config
        };
        let otherwise = differences(&with_subjects(&wanted), &with_subjects(&there));
        if !otherwise.is_empty() {
            let differences = if missing.is_empty() {
                otherwise
            } else {
                differences(&wanted, &there)
            };
            return Err(differs(stream, &differences));
        }
        if !missing.is_empty() {
            add_subjects(client, stream, &missing, &with_subjects(&there)).await?;
        } else if code != ErrorCode::STREAM_NAME_EXIST {
            return Ok(());
        }
        // Fields that are not declared may differ as well.
        match request::ask::<Value>(client, create, &with_subjects(&wanted)).await {
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NAME_EXIST => {
                Err(differs(stream, &[]))
            }
            _ => Ok(()),
        }
    }

    /// Creates the durable consumer of a kind on a stream, unless it exists, and returns its name.
    ///
    /// # Errors
    /// When JetStream refuses, or the consumer exists and differs from what is declared.
    pub async fn ensure_consumer(
        self,
        client: &Client,
        stream: Stream,
        kind: &JobKind,
    ) -> anyhow::Result<String> {
        let name = consumer_name(kind);
        self.ensure_pull_consumer(client, stream, &name, jobs_of_kind(stream, kind))
            .await?;
        Ok(name)
    }

    /// Creates a durable pull consumer, unless it exists.
    ///
    /// # Errors
    /// When JetStream refuses, or the consumer exists and differs from what is declared.
    pub async fn ensure_pull_consumer(
        self,
        client: &Client,
        stream: Stream,
        name: &str,
        filter: String,
    ) -> anyhow::Result<()> {
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: MAX_DELIVER,
            max_ack_pending: MAX_ACK_PENDING,
            filter_subject: filter.clone(),
            max_waiting: 4096,
            ..pull::Config::default()
        };
        let config =
            async_nats::jetstream::consumer::IntoConsumerConfig::into_consumer_config(config);
        let config =
            serde_json::to_value(config).context("a consumer's configuration is plain data")?;
        let request = json!({"stream_name": stream.name(), "config": config, "action": "create"});
        let mut subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
        if !filter.is_empty() {
            subject = format!("{subject}.{filter}");
        }
        match request::ask::<Value>(client, subject, &request).await {
            Ok(_) => Ok(()),
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::CONSUMER_ALREADY_EXISTS => {
                let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{name}");
                let info: Value = request::ask(client, subject, &Value::Null).await?;
                anyhow::bail!(
                    "the durable consumer {name} of the stream {stream} is there, but not as it \
                     is declared; change or delete it: {}",
                    differences(&config, &info["config"]).join("; ")
                )
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot create the durable consumer {name} of {stream}")),
        }
    }
}

/// The name of the durable consumer of a kind: `=` stands for the dots, which a name cannot hold.
#[must_use]
pub fn consumer_name(kind: &JobKind) -> String {
    kind.as_str().replace('.', "=")
}

/// The kind that a durable consumer of this name serves; the inverse of [`consumer_name`].
#[must_use]
pub(crate) fn kind_of_consumer(name: &str) -> Option<JobKind> {
    name.replace('=', ".").parse().ok()
}

/// The subjects of all queued jobs of a kind in a stream, with wildcards.
#[must_use]
pub fn jobs_of_kind(stream: Stream, kind: &JobKind) -> String {
    let first = if stream == Stream::Later {
        subjects::DUE
    } else {
        subjects::DURABLE
    };
    format!("{first}.*.*.*.{kind}")
}

/// Adds subjects to a stream that is there; `config` is that stream with them.
async fn add_subjects(
    client: &Client,
    stream: Stream,
    missing: &[Value],
    config: &Value,
) -> anyhow::Result<()> {
    let update = format!("$JS.API.STREAM.UPDATE.{stream}");
    request::ask::<Value>(client, update.clone(), config)
        .await
        .map_err(|error| {
            // Not as it came: a request that this user may not send has no answer, and whoever waits
            // for one would wait for ever.
            anyhow::anyhow!(
                "the stream {stream} was made by an older version, and its missing subjects {} \
                 cannot be added: {error}; a consumer needs the right to publish to {update}, as \
                 in deploy/nats.conf",
                json!(missing)
            )
        })?;
    info!(%stream, subjects = %json!(missing), "added subjects to a stream of an older version");
    Ok(())
}

fn differs(stream: Stream, differences: &[String]) -> anyhow::Error {
    let differences = if differences.is_empty() {
        "it differs in a field that is not declared".to_owned()
    } else {
        differences.join("; ")
    };
    anyhow::anyhow!(
        "the stream {stream} is there, but not as it is declared; change it, or what is declared, \
         so that they agree: {differences}"
    )
}

fn subjects_of(config: &Value) -> Vec<Value> {
    config["subjects"].as_array().cloned().unwrap_or_default()
}

/// The subjects that are wanted and not there.
fn missing_subjects(wanted: &Value, there: &Value) -> Vec<Value> {
    let there = subjects_of(there);
    let mut wanted = subjects_of(wanted);
    wanted.retain(|subject| !there.contains(subject));
    wanted
}

/// In which fields what is there differs from what is wanted.
fn differences(wanted: &Value, there: &Value) -> Vec<String> {
    let nothing = Map::new();
    let (wanted, there) = (
        wanted.as_object().unwrap_or(&nothing),
        there.as_object().unwrap_or(&nothing),
    );
    wanted
        .iter()
        .filter_map(|(field, wanted)| {
            let there = there.get(field).unwrap_or(&Value::Null);
            let empty = |value: &Value| {
                value.is_null()
                    || *value == json!(0)
                    || *value == json!(-1)
                    || *value == json!(false)
                    || *value == json!("")
                    || value.as_object().is_some_and(Map::is_empty)
            };
            let alike = || wanted.is_object() && differences(wanted, there).is_empty();
            let same = wanted == there || (empty(wanted) && empty(there)) || alike();
            (!same).then(|| format!("{field} is {there} instead of {wanted}"))
        })
        .collect()
}
