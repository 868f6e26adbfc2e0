//! Reads and stores the settings of kinds, and pauses their durable consumers as the settings say.
//!
//! A pause is two things: the setting, which is what somebody wants, and the pause of the durable
//! consumers, which the server keeps. The setting is written first. [`enforce`] makes the server agree
//! with it, so it does not matter where a client stops in between.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use common::{JobKind, KindSetting, Priority, Timestamp, subjects};
use connection::NatsClient;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::debug;

use crate::batch::{self, NotStored};
use crate::direct_get;
use crate::headers::{EXPECTED_LAST, is_copy};
use crate::manage;
use crate::message::Message;
use crate::request::{ApiError, ask};
use crate::stored_message::StoredMessage;
use crate::topology::{Stream, consumer_name, consumer_of_priority, jobs_of_kind};

/// The end of a pause that has none: the server pauses a durable consumer only until a time. Later times
/// would overflow its clock.
const FAR: &str = "2200-01-01T00:00:00Z";

/// How often a change is tried again when others change the setting at the same time.
const TRIES: usize = 5;

/// How often [`enforce`] looks again after it has changed something.
const LOOKS: usize = 5;

/// The stored setting of a kind.
#[derive(Clone, Debug, Default)]
pub struct StoredSetting {
    /// The setting; `None` if there is none, or what is stored cannot be read.
    pub setting: Option<KindSetting>,
    /// Its sequence in the stream, which the next setting has to expect; 0 if nothing is stored.
    pub sequence: u64,
}

/// When a pause ends that has no end.
#[must_use]
pub fn far() -> Option<Timestamp> {
    FAR.parse().ok()
}

/// Until when the durable consumers of a kind have to be paused; `None` if they have to deliver.
#[must_use]
pub fn pause_until(setting: Option<&KindSetting>, now: Timestamp) -> Option<Timestamp> {
    let setting = setting.filter(|setting| setting.is_paused(now))?;
    match (setting.paused_until, far()) {
        (Some(until), Some(far)) => Some(until.min(far)),
        (until, far) => until.or(far),
    }
}

/// Reads the setting of a kind.
///
/// # Errors
/// See [`ApiError`].
pub async fn read(client: &NatsClient, kind: &JobKind) -> Result<StoredSetting, ApiError> {
    let subject = subjects::kind_setting(kind);
    let stored = direct_get::last(client, Stream::State, &subject).await;
    // A stream that does not exist holds no settings.
    let stored = manage::existing(stored)?.flatten();
    Ok(
        stored.map_or_else(StoredSetting::default, |stored| StoredSetting {
            setting: decode(kind, &stored),
            sequence: stored.sequence,
        }),
    )
}

/// Reads the settings of all kinds. What cannot be read is left out.
///
/// # Errors
/// See [`ApiError`].
pub async fn all(client: &NatsClient) -> Result<BTreeMap<JobKind, KindSetting>, ApiError> {
    let stored = direct_get::every(client, Stream::State, subjects::ALL_KIND_SETTINGS).await?;
    let settings = stored.into_iter().filter_map(|stored| {
        let kind = subjects::parse_kind_setting(&stored.subject)?;
        let setting = decode(&kind, &stored)?;
        Some((kind, setting))
    });
    Ok(settings.collect())
}

/// Anybody may have an answer of the server stored in place of a setting, through a reply subject.
fn decode(kind: &JobKind, stored: &StoredMessage) -> Option<KindSetting> {
    if is_copy(&stored.headers) {
        return None;
    }
    let setting = serde_json::from_slice(&stored.payload);
    setting
        .inspect_err(|error| debug!(job.kind = %kind, %error, "cannot read the setting of a kind"))
        .ok()
}

/// The message that stores the setting of a kind. The stream stores it only if the last one has the
/// expected sequence (0 for none).
///
/// # Panics
/// Never: a setting is plain data with text for keys.
#[must_use]
pub fn message(kind: &JobKind, setting: &KindSetting, expected: u64) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, expected.to_string());
    let payload = serde_json::to_vec(setting).expect("a setting is plain data with text for keys");
    Message {
        subject: subjects::kind_setting(kind),
        headers,
        payload: payload.into(),
    }
}

/// Changes the setting of a kind by compare-and-set. If another client changes it at the same time, the
/// change is made again.
///
/// # Errors
/// That of `change`; also when the server refuses it or does not answer in time, or others change the
/// setting again and again.
pub async fn change(
    client: &NatsClient,
    kind: &JobKind,
    at: Timestamp,
    change: impl Fn(&mut KindSetting) -> anyhow::Result<()>,
) -> anyhow::Result<KindSetting> {
    for _ in 0..TRIES {
        let stored = read(client, kind).await?;
        let mut setting = stored.setting.unwrap_or(KindSetting {
            paused: false,
            paused_until: None,
            reason: None,
            priorities: false,
            by: None,
            at,
            others: Map::new(),
        });
        setting.at = at;
        change(&mut setting)?;
        let message = message(kind, &setting, stored.sequence);
        match batch::store(client, vec![message]).await {
            Ok(_) => return Ok(setting),
            Err(NotStored::Conflict) => {}
            Err(NotStored::NoStream) => anyhow::bail!(
                "there is no stream {}: a consumer creates it when it starts",
                Stream::State
            ),
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("others change it at the same time")
}

/// The durable consumers of a kind on a stream that a pause of the kind holds back.
#[must_use]
pub fn paused_with(stream: Stream, kind: &JobKind, setting: &KindSetting) -> Vec<String> {
    let mut names = vec![consumer_name(kind)];
    if stream == Stream::Jobs && setting.priorities {
        names.extend(Priority::ALL.map(|priority| consumer_of_priority(kind, priority)));
    }
    names
}

/// Pauses a durable consumer until a time, or lets it deliver. A durable consumer that does not exist is
/// no error: whoever creates it reads the setting.
///
/// # Errors
/// See [`ApiError`].
pub async fn pause(
    client: &NatsClient,
    stream: Stream,
    consumer: &str,
    until: Option<Timestamp>,
) -> Result<(), ApiError> {
    let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.{consumer}");
    let body = until.map_or_else(|| json!({}), |until| json!({"pause_until": until}));
    match ask::<Value>(client, subject, &body).await {
        Ok(_) => Ok(()),
        Err(ApiError::Refused { code, .. })
            if [
                ErrorCode::CONSUMER_NOT_FOUND,
                ErrorCode::CONSUMER_DOES_NOT_EXIST,
                ErrorCode::STREAM_NOT_FOUND,
            ]
            .contains(&code) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A durable consumer, as far as its pause and its priorities are concerned.
pub(crate) struct Delivery {
    /// Until when it is paused.
    pub(crate) paused_until: Option<Timestamp>,
    /// The last message that it has delivered.
    pub(crate) delivered: u64,
    /// The configuration of the durable consumer.
    pub(crate) config: Value,
    /// The time of the server.
    pub(crate) now: Timestamp,
}

impl Delivery {
    /// Whether the durable consumer of a kind on `JOBS` delivers its jobs of all priorities.
    pub(crate) fn is_of_all_priorities(&self, kind: &JobKind) -> bool {
        self.config["filter_subject"] == *jobs_of_kind(Stream::Jobs, kind)
    }
}

/// `None` if there is no such durable consumer.
pub(crate) async fn delivery(
    client: &NatsClient,
    stream: Stream,
    consumer: &str,
) -> Result<Option<Delivery>, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        config: Value,
        #[serde(default)]
        paused: bool,
        delivered: Sequences,
        ts: Timestamp,
    }
    #[derive(Deserialize)]
    struct Sequences {
        stream_seq: u64,
    }
    let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
    let info: Option<Info> = manage::existing(ask(client, subject, &Value::Null).await)?;
    Ok(info.map(|info| Delivery {
        paused_until: info.config["pause_until"]
            .as_str()
            .filter(|_| info.paused)
            .and_then(|until| until.parse().ok()),
        delivered: info.delivered.stream_seq,
        config: info.config,
        now: info.ts,
    }))
}

/// Whether a durable consumer is paused now.
///
/// # Errors
/// See [`ApiError`].
pub async fn is_held_back(
    client: &NatsClient,
    stream: Stream,
    consumer: &str,
) -> Result<bool, ApiError> {
    let delivery = delivery(client, stream, consumer).await?;
    Ok(delivery.is_some_and(|delivery| delivery.paused_until.is_some()))
}

/// Pauses a durable consumer of a kind, or lets it deliver, as the setting of the kind says. Returns
/// whether that was necessary. A kind without a setting is left as it is.
///
/// # Errors
/// When the server does not answer in time, or the setting changes again and again.
pub async fn enforce(
    client: &NatsClient,
    stream: Stream,
    kind: &JobKind,
    consumer: &str,
) -> anyhow::Result<bool> {
    for look in 0..LOOKS {
        // In this order: whoever changes a setting stores it before it changes the durable consumer. So
        // a change that is seen here has a setting that is read here.
        let Some(delivery) = delivery(client, stream, consumer).await? else {
            return Ok(look > 0);
        };
        let Some(setting) = read(client, kind).await?.setting else {
            return Ok(look > 0);
        };
        if stream == Stream::Jobs && setting.priorities && delivery.is_of_all_priorities(kind) {
            // It is about to be narrowed: `priorities::separate` pauses it, and lets it deliver.
            return Ok(look > 0);
        }
        let wanted = pause_until(Some(&setting), delivery.now);
        if wanted == delivery.paused_until {
            return Ok(look > 0);
        }
        pause(client, stream, consumer, wanted).await?;
        // Somebody may have changed setting and durable consumer meanwhile: look again.
    }
    anyhow::bail!("the setting of the kind {kind} changes again and again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(paused: bool, until: Option<&str>) -> KindSetting {
        KindSetting {
            paused,
            paused_until: until.map(|until| until.parse().unwrap()),
            reason: None,
            priorities: false,
            by: None,
            at: "2026-01-31T09:30:00Z".parse().unwrap(),
            others: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_pause_ends_by_itself_or_never() {
        let now = "2026-01-31T10:00:00Z".parse().unwrap();
        let until = |paused, until| {
            let until = pause_until(Some(&setting(paused, until)), now);
            until.map(|until| until.to_string())
        };
        let later = "2026-01-31T10:00:01Z";
        assert_eq!(until(true, Some(later)).as_deref(), Some(later));
        assert_eq!(until(true, None).as_deref(), Some(FAR));
        assert_eq!(
            until(true, Some("9999-12-31T23:59:59Z")).as_deref(),
            Some(FAR)
        );
        assert_eq!(until(true, Some("2026-01-31T10:00:00Z")), None);
        assert_eq!(until(false, None), None);
        assert_eq!(pause_until(None, now), None);
    }
}
