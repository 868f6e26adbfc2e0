//! Creates the declared streams and durable consumers, and updates those that differ.
//!
//! A missing stream or consumer is created. A setting that may change while the stream or consumer is
//! used is set to the declared value, and missing subjects are added to a stream. If another setting
//! differs, this is an error that names each field.
//!
//! On how many servers a stream is stored is decided when it is created or updated: see [`Topology`].
//!
//! Versions with different declarations may run at the same time. So each declaration has a revision,
//! which is stored in the metadata of the stream or consumer. A version does not change a stream or
//! consumer whose revision is higher than its own.

use std::collections::HashMap;

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, IntoConsumerConfig as _};
use common::{JobKind, Priority, Timestamp, subjects};
use connection::NatsClient;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    Stream, Topology, consumer_name, consumer_of_priority, jobs_of_kind, limit, no_jobs_of_kind,
    pull_consumer,
};
use crate::cluster;
use crate::manage::{self, StreamInfo};
use crate::request::{self, ApiError};

/// The revision of the declarations of this version. Increase it with each change of a declared value.
const REVISION: u64 = 5;

/// On how many servers of a cluster a stream is stored, unless something else is declared.
const IN_A_CLUSTER: usize = 3;

/// The key of the revision in the metadata of a stream or consumer.
const REVISION_KEY: &str = "jobs.revision";

/// The setting of a durable consumer that says from which sequence on it delivers.
const START: &str = "opt_start_seq";

/// The settings of a stream that may change while it is used.
const CHANGEABLE_OF_STREAM: [&str; 3] = ["max_bytes", "num_replicas", "republish"];

/// The settings of a durable consumer that may change while it is used.
const CHANGEABLE_OF_CONSUMER: [&str; 3] = ["ack_wait", "max_ack_pending", "max_deliver"];

/// The metadata of the streams and consumers that this version declares.
pub(super) fn revision() -> HashMap<String, String> {
    HashMap::from([(REVISION_KEY.to_owned(), REVISION.to_string())])
}

/// What to do with an existing stream or consumer.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing, because a later version has declared it.
    LeaveAlone,
    /// Nothing, because it matches its declaration.
    Nothing,
    /// Set these fields to these values.
    Change(Map<String, Value>),
    /// Report an error: it differs in fields that may not change. Each text names a field with both
    /// values.
    Refuse(Vec<String>),
}

impl Topology {
    /// Creates missing streams, and updates existing ones to match their declarations, as far as that
    /// is possible while they are used. An existing stream may have more subjects than declared.
    ///
    /// # Errors
    /// When there is no JetStream, when it refuses, and when a stream differs in a setting that may
    /// not change: the error names each field.
    pub async fn ensure(self, client: &NatsClient) -> anyhow::Result<()> {
        for stream in Stream::ALL {
            self.reconcile_stream(client, stream).await?;
        }
        Ok(())
    }

    async fn reconcile_stream(self, client: &NatsClient, stream: Stream) -> anyhow::Result<()> {
        let replicas = self.replicas.unwrap_or_else(|| {
            let clustered = cluster::is_clustered(client);
            if clustered { IN_A_CLUSTER } else { 1 }
        });
        let reconciled = self.reconcile_on(client, stream, replicas).await;
        let no_peers = reconciled.as_ref().is_err_and(has_no_peers);
        if no_peers && self.replicas.is_none() && replicas > 1 {
            warn!(
                "the stream {stream} is stored on one server: the cluster has no {replicas} servers for it"
            );
            return self.reconcile_on(client, stream, 1).await;
        }
        if no_peers {
            return reconciled.with_context(|| {
                format!(
                    "the stream {stream} cannot be stored on {replicas} servers: there are not so many \
                     with JetStream and enough storage"
                )
            });
        }
        reconciled
    }

    async fn reconcile_on(
        self,
        client: &NatsClient,
        stream: Stream,
        replicas: usize,
    ) -> anyhow::Result<()> {
        let mut declared = serde_json::to_value(self.stream(stream))
            .context("a stream's configuration is plain data")?;
        declared["num_replicas"] = json!(replicas);
        let create = format!("$JS.API.STREAM.CREATE.{stream}");
        let Err(error) = request::ask::<Value>(client, create.clone(), &declared).await else {
            return Ok(());
        };
        // The stream may exist all the same: the server checks first whether there is room for one
        // more.
        let ApiError::Refused { code, .. } = error else {
            return Err(error).with_context(|| format!("cannot create the stream {stream}"));
        };
        let Ok(StreamInfo {
            config: existing, ..
        }) = manage::stream_info(client, stream).await
        else {
            return Err(error).with_context(|| format!("cannot create the stream {stream}"));
        };
        if self.replicas.is_none()
            && existing["num_replicas"].as_u64() > declared["num_replicas"].as_u64()
        {
            declared["num_replicas"] = existing["num_replicas"].clone();
        }
        let mut with_all_subjects = declared.clone();
        with_all_subjects["subjects"] = json!(all_subjects(&declared, &existing));
        if limit::is_lifted(&declared, &existing) {
            with_all_subjects["max_bytes"] = existing["max_bytes"].clone();
        }
        let merged = match plan(&with_all_subjects, &existing, &CHANGEABLE_OF_STREAM) {
            Plan::LeaveAlone => return Ok(()),
            Plan::Refuse(differences) if with_all_subjects["subjects"] == existing["subjects"] => {
                return Err(differs(stream, &differences));
            }
            // Compared with the declaration itself, so that the error also names missing subjects.
            Plan::Refuse(_) => return Err(differs(stream, &differences(&declared, &existing))),
            Plan::Nothing if code != ErrorCode::STREAM_NAME_EXIST => return Ok(()),
            Plan::Nothing => existing,
            Plan::Change(changes) => {
                let config = with(&existing, &changes);
                update_stream(client, stream, &changes, &config).await?;
                config
            }
        };
        // A field that is not declared may differ as well.
        with_all_subjects["metadata"] = merged["metadata"].clone();
        match request::ask::<Value>(client, create, &with_all_subjects).await {
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NAME_EXIST => {
                let now = manage::stream_info(client, stream).await?.config;
                if now == merged {
                    return Err(differs(stream, &[]));
                }
                // Another consumer has changed it meanwhile.
                Box::pin(self.reconcile_on(client, stream, replicas)).await
            }
            _ => Ok(()),
        }
    }

    /// Creates the durable consumer of a kind on a stream, or updates it to match its declaration. A new
    /// one is paused until `paused_until`, so that it delivers nothing before it can be paused. The pause of
    /// an existing one stays as it is.
    ///
    /// Returns whether it leaves the jobs to the durable consumers of their priorities: see
    /// [`crate::priorities`].
    ///
    /// # Errors
    /// When JetStream refuses, or the consumer differs in a setting that may not change.
    pub async fn ensure_consumer(
        self,
        client: &NatsClient,
        stream: Stream,
        kind: &JobKind,
        paused_until: Option<Timestamp>,
    ) -> anyhow::Result<bool> {
        let name = consumer_name(kind);
        let narrowed = no_jobs_of_kind(kind);
        let wanted = Wanted {
            or_filter: (stream == Stream::Jobs).then_some(narrowed),
            paused_until,
            ..Wanted::new(stream, &name, jobs_of_kind(stream, kind))
        };
        let there = reconcile_consumer(client, &wanted).await?;
        Ok(there["filter_subject"] != json!(wanted.filter))
    }

    /// Creates the durable consumer on `JOBS` for one priority of a kind, or updates it to
    /// match its declaration. It delivers jobs from the sequence `start` on, or from where an existing one
    /// has started. Returns that sequence.
    ///
    /// # Errors
    /// When JetStream refuses, or the consumer differs in a setting that may not change.
    pub async fn ensure_consumer_of_priority(
        self,
        client: &NatsClient,
        kind: &JobKind,
        priority: Priority,
        start: u64,
        paused_until: Option<Timestamp>,
    ) -> anyhow::Result<u64> {
        let name = consumer_of_priority(kind, priority);
        let filter = subjects::durable_of_priority(priority, kind);
        let wanted = Wanted {
            start: Some(start),
            paused_until,
            ..Wanted::new(Stream::Jobs, &name, filter)
        };
        let there = reconcile_consumer(client, &wanted).await?;
        Ok(there[START].as_u64().unwrap_or(start))
    }

    /// Creates a durable pull consumer, or updates it to match its declaration.
    ///
    /// # Errors
    /// When JetStream refuses, or the consumer differs in a setting that may not change.
    pub async fn ensure_pull_consumer(
        self,
        client: &NatsClient,
        stream: Stream,
        name: &str,
        filter: String,
    ) -> anyhow::Result<()> {
        reconcile_consumer(client, &Wanted::new(stream, name, filter)).await?;
        Ok(())
    }
}

/// A durable pull consumer as it is to be.
struct Wanted<'a> {
    stream: Stream,
    name: &'a str,
    /// The subjects of a new one; empty for all subjects of the stream.
    filter: String,
    /// An existing one may have this filter instead.
    or_filter: Option<String>,
    /// From which sequence on a new one delivers; an existing one may have started elsewhere.
    start: Option<u64>,
    /// Until when a new one is paused.
    paused_until: Option<Timestamp>,
}

impl<'a> Wanted<'a> {
    fn new(stream: Stream, name: &'a str, filter: String) -> Self {
        Self {
            stream,
            name,
            filter,
            or_filter: None,
            start: None,
            paused_until: None,
        }
    }

    /// Declares what an existing one may have otherwise than a new one.
    fn adopt(&self, existing: &Value, declared: &mut Value) {
        let filter = self
            .or_filter
            .as_deref()
            .map(|filter| ("filter_subject", json!(filter)));
        let start = self.start.map(|_| (START, existing[START].clone()));
        let mut adopted = false;
        for (field, value) in filter.into_iter().chain(start) {
            if existing[field] == value && declared[field] != value && !value.is_null() {
                declared[field] = value;
                adopted = true;
            }
        }
        if adopted {
            declared["pause_until"] = existing["pause_until"].clone();
        }
    }
}

/// Creates a durable pull consumer, or updates it. Returns its configuration.
async fn reconcile_consumer(client: &NatsClient, wanted: &Wanted<'_>) -> anyhow::Result<Value> {
    let Wanted { stream, name, .. } = *wanted;
    let mut config = pull_consumer(name, &wanted.filter);
    if let Some(start_sequence) = wanted.start {
        config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
    }
    let mut declared = serde_json::to_value(config.into_consumer_config())
        .context("a consumer's configuration is plain data")?;
    let create = async |config: &Value, action: &str| {
        manage::create_consumer(client, stream, name, config, action).await
    };
    let failed = || format!("cannot create the durable consumer {name} of {stream}");
    let mut new = declared.clone();
    if let Some(until) = wanted.paused_until {
        new["pause_until"] = json!(until);
    }
    match create(&new, "create").await {
        Ok(()) => return Ok(declared),
        Err(ApiError::Refused { code, .. }) if code == ErrorCode::CONSUMER_ALREADY_EXISTS => {}
        Err(error) => return Err(error).with_context(failed),
    }
    let info = format!("$JS.API.CONSUMER.INFO.{stream}.{name}");
    let mut info: Value = request::ask(client, info, &Value::Null).await?;
    let existing = info["config"].take();
    wanted.adopt(&existing, &mut declared);
    match plan(&declared, &existing, &CHANGEABLE_OF_CONSUMER) {
        Plan::LeaveAlone => Ok(existing),
        Plan::Change(changes) => {
            let config = with(&existing, &changes);
            create(&config, "update").await.with_context(failed)?;
            report_change(&format!("durable consumer {name} of {stream}"), &changes);
            Ok(config)
        }
        // The server compares the whole configuration, with what was adopted. Servers of a cluster have also refused
        // a durable consumer that differed in nothing.
        Plan::Nothing if create(&declared, "create").await.is_ok() => Ok(existing),
        Plan::Nothing => Err(consumer_differs(
            stream,
            name,
            "it differs in a field that is not declared",
        )),
        Plan::Refuse(differences) => Err(consumer_differs(stream, name, &differences.join("; "))),
    }
}

/// Compares a declared configuration with the existing one. `changeable` names the fields that may
/// change; the subjects of a stream may change too, and `declared` must include the existing ones.
fn plan(declared: &Value, existing: &Value, changeable: &[&str]) -> Plan {
    let differing = differing_fields(declared, existing);
    let may_change =
        |field: &str| changeable.contains(&field) || field == "subjects" || field == "metadata";
    if differing.iter().any(|field| !may_change(field)) {
        return Plan::Refuse(differences(declared, existing));
    }
    if revision_of(existing) > REVISION {
        return Plan::LeaveAlone;
    }
    let mut changes: Map<String, Value> = differing
        .into_iter()
        .map(|field| (field.clone(), declared[field].clone()))
        .collect();
    if changes.is_empty() {
        return Plan::Nothing;
    }
    let mut metadata = existing["metadata"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    metadata.extend(
        declared["metadata"]
            .as_object()
            .cloned()
            .unwrap_or_default(),
    );
    metadata.insert(REVISION_KEY.to_owned(), json!(REVISION.to_string()));
    changes.insert("metadata".to_owned(), Value::Object(metadata));
    Plan::Change(changes)
}

/// The fields that differ, each with both values, without the metadata.
fn differences(declared: &Value, existing: &Value) -> Vec<String> {
    let fields = differing_fields(declared, existing).into_iter();
    let named = fields.filter(|field| *field != "metadata");
    let both = |field: &String| {
        let (there, wanted) = (&existing[field], &declared[field]);
        format!("{field} is {there} instead of {wanted}")
    };
    named.map(both).collect()
}

fn revision_of(config: &Value) -> u64 {
    let revision = config["metadata"][REVISION_KEY].as_str();
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The declared fields that have another value in the existing configuration.
fn differing_fields<'a>(declared: &'a Value, existing: &Value) -> Vec<&'a String> {
    let fields = declared.as_object().into_iter().flatten();
    fields
        .filter(|(field, declared)| !is_same(declared, &existing[field.as_str()]))
        .map(|(field, _)| field)
        .collect()
}

fn is_same(declared: &Value, existing: &Value) -> bool {
    let is_empty = |value: &Value| {
        value.is_null()
            || *value == json!(0)
            || *value == json!(-1)
            || *value == json!(false)
            || *value == json!("")
            || value.as_object().is_some_and(Map::is_empty)
    };
    declared == existing
        || (is_empty(declared) && is_empty(existing))
        || (declared.is_object() && differing_fields(declared, existing).is_empty())
}

fn with(config: &Value, changes: &Map<String, Value>) -> Value {
    let mut config = config.clone();
    for (field, value) in changes {
        config[field] = value.clone();
    }
    config
}

/// The existing subjects, and the declared ones that are missing.
fn all_subjects(declared: &Value, existing: &Value) -> Vec<Value> {
    let subjects = |config: &Value| config["subjects"].as_array().cloned().unwrap_or_default();
    let mut all = subjects(existing);
    for subject in subjects(declared) {
        if !all.contains(&subject) {
            all.push(subject);
        }
    }
    all
}

async fn update_stream(
    client: &NatsClient,
    stream: Stream,
    changes: &Map<String, Value>,
    config: &Value,
) -> anyhow::Result<()> {
    let update = format!("$JS.API.STREAM.UPDATE.{stream}");
    request::ask::<Value>(client, update.clone(), config)
        .await
        .map_err(|error| {
            if is_without_peers(&error) {
                return error.into();
            }
            // Not returned as an `ApiError`: a request that this user may not send has no answer, and a
            // caller that takes it for a lost request would wait for ever.
            anyhow::anyhow!(
                "the stream {stream} differs from its declaration, and cannot be updated ({}): \
                 {error}; a consumer needs the right to publish to {update}, as in \
                 deploy/nats.conf",
                in_words(changes)
            )
        })?;
    report_change(&format!("stream {stream}"), changes);
    Ok(())
}

/// Whether a stream cannot be stored on as many servers as it should be.
fn is_without_peers(error: &ApiError) -> bool {
    let codes = [
        ErrorCode::CLUSTER_NO_PEERS,
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED,
    ];
    matches!(error, ApiError::Refused { code, .. } if codes.contains(code))
}

fn has_no_peers(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(is_without_peers)
}

fn report_change(what: &str, changes: &Map<String, Value>) {
    info!(
        "updated the {what} to match its declaration: {}",
        in_words(changes)
    );
}

fn in_words(changes: &Map<String, Value>) -> String {
    let fields = changes
        .iter()
        .map(|(field, value)| format!("{field} = {value}"));
    fields.collect::<Vec<_>>().join(", ")
}

fn differs(stream: Stream, differences: &[String]) -> anyhow::Error {
    let differences = if differences.is_empty() {
        "it differs in a field that is not declared".to_owned()
    } else {
        differences.join("; ")
    };
    anyhow::anyhow!(
        "the stream {stream} exists, but differs from its declaration; change the stream or the \
         declaration: {differences}"
    )
}

fn consumer_differs(stream: Stream, name: &str, differences: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the durable consumer {name} of the stream {stream} exists, but differs from its \
         declaration; change or delete it: {differences}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGEABLE: [&str; 1] = ["max_bytes"];

    fn config(max_bytes: i64, revision: Option<u64>) -> Value {
        let mut config = json!({"subjects": ["a"], "storage": "file", "max_bytes": max_bytes});
        if let Some(revision) = revision {
            config["metadata"] = json!({"jobs.revision": revision.to_string()});
        }
        config
    }

    fn declared() -> Value {
        config(2, Some(REVISION))
    }

    #[test]
    fn what_is_as_declared_is_left_whatever_the_server_adds() {
        let mut existing = declared();
        existing["metadata"]["_nats.level"] = json!("4");
        existing["max_age"] = json!(0);
        assert_eq!(plan(&declared(), &existing, &CHANGEABLE), Plan::Nothing);
    }

    #[test]
    fn what_may_change_is_changed_and_says_who_declared_it() {
        for revision in [None, Some(REVISION)] {
            let Plan::Change(changes) = plan(&declared(), &config(1, revision), &CHANGEABLE) else {
                panic!("not changed")
            };
            assert_eq!(changes["max_bytes"], 2);
            assert_eq!(changes["metadata"]["jobs.revision"], REVISION.to_string());
        }
    }

    #[test]
    fn what_a_later_version_declared_is_not_changed_back() {
        let later = config(1, Some(REVISION + 1));
        assert_eq!(plan(&declared(), &later, &CHANGEABLE), Plan::LeaveAlone);
    }

    #[test]
    fn what_may_not_change_is_named_field_by_field_also_for_a_later_version() {
        for revision in [None, Some(REVISION + 1)] {
            let mut existing = config(1, revision);
            existing["storage"] = json!("memory");
            let Plan::Refuse(differences) = plan(&declared(), &existing, &CHANGEABLE) else {
                panic!("taken")
            };
            let text = differences.join("; ");
            assert!(
                text.contains(r#"storage is "memory" instead of "file""#),
                "{text}"
            );
            assert!(text.contains("max_bytes is 1 instead of 2"), "{text}");
        }
    }
}
