//! Reads and stores the settings of kinds, and pauses their durable consumers as the settings say.
//!
//! Each kind may have a setting of its own, and one more is of all kinds, also of those that are created later.
//! A kind is paused if one of the two says so.
//!
//! A pause is two things: the setting, which is what somebody wants, and the pause of the durable
//! consumers, which the server keeps. The setting is written first. [`enforce`] makes the server agree
//! with it, so it does not matter where a client stops in between.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use common::{JobKind, KindSetting, Priority, Timestamp, subjects};
use connection::NatsClient;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::debug;

use crate::batch::{self, NotStored};
use crate::direct_get;
use crate::headers::{EXPECTED_LAST, is_copy};
use crate::manage;
use crate::message::Message;
use crate::request::{ApiError, ask, no_answer};
use crate::stored_message::StoredMessage;
use crate::topology::{Stream, consumer_name, consumer_of_priority, jobs_of_kind};

/// The end of a pause that has none: the server pauses a durable consumer only until a time. Later times
/// would overflow its clock.
const FAR: &str = "2200-01-01T00:00:00Z";

/// How often a change is tried again when others change the setting at the same time.
const TRIES: usize = 5;

/// How often [`enforce`] and [`enforce_all`] look again after they have changed something.
const LOOKS: usize = 5;

/// How many durable consumers [`enforce_all`] changes at a time.
const AT_A_TIME: usize = 32;

/// The settings of kinds.
#[derive(Clone, Debug, Default)]
pub struct KindSettings {
    /// The settings of single kinds.
    pub kinds: BTreeMap<JobKind, KindSetting>,
    /// The setting of all kinds.
    pub all: Option<KindSetting>,
}

impl KindSettings {
    /// The settings that a kind follows.
    #[must_use]
    pub fn of(&self, kind: &JobKind) -> Followed {
        Followed {
            own: self.kinds.get(kind).cloned(),
            all: self.all.clone(),
        }
    }
}

/// The settings that a kind follows: its own, and that of all kinds.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The setting of the kind itself.
    pub own: Option<KindSetting>,
    /// The setting of all kinds.
    pub all: Option<KindSetting>,
}

impl Followed {
    /// Whether there is no setting: then nobody changes the durable consumers of the kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_none() && self.all.is_none()
    }

    /// Whether the priorities of the kind are heeded.
    #[must_use]
    pub fn heeds_priorities(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.priorities)
    }

    /// Until when the durable consumers of the kind have to be paused; `None` if they have to deliver.
    #[must_use]
    pub fn pause_until(&self, now: Timestamp) -> Option<Timestamp> {
        let own = pause_until(self.own.as_ref(), now);
        own.max(pause_until(self.all.as_ref(), now))
    }

    /// Whether the kind is paused at a time.
    #[must_use]
    pub fn is_paused(&self, at: Timestamp) -> bool {
        let both = [&self.own, &self.all];
        both.into_iter()
            .flatten()
            .any(|setting| setting.is_paused(at))
    }
}

/// The stored setting of a kind, or of all kinds.
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

/// Until when a setting pauses durable consumers; `None` if it does not.
fn pause_until(setting: Option<&KindSetting>, now: Timestamp) -> Option<Timestamp> {
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
    read_on(client, &subjects::kind_setting(kind)).await
}

/// Reads the setting of all kinds.
///
/// # Errors
/// See [`ApiError`].
pub async fn read_of_all(client: &NatsClient) -> Result<StoredSetting, ApiError> {
    read_on(client, subjects::SETTING_OF_ALL_KINDS).await
}

/// Reads the settings that a kind follows.
///
/// # Errors
/// See [`ApiError`].
pub async fn followed(client: &NatsClient, kind: &JobKind) -> Result<Followed, ApiError> {
    let (own, all) = futures_util::try_join!(read(client, kind), read_of_all(client))?;
    Ok(Followed {
        own: own.setting,
        all: all.setting,
    })
}

async fn read_on(client: &NatsClient, subject: &str) -> Result<StoredSetting, ApiError> {
    let stored = direct_get::last(client, Stream::State, subject).await;
    // A stream that does not exist holds no settings.
    let stored = manage::existing(stored)?.flatten();
    Ok(
        stored.map_or_else(StoredSetting::default, |stored| StoredSetting {
            setting: decode(&stored),
            sequence: stored.sequence,
        }),
    )
}

/// Reads all settings. What cannot be read is left out.
///
/// # Errors
/// See [`ApiError`].
pub async fn all(client: &NatsClient) -> Result<KindSettings, ApiError> {
    let stored = direct_get::every(client, Stream::State, subjects::ALL_KIND_SETTINGS).await?;
    let mut settings = KindSettings::default();
    for stored in stored {
        if stored.subject == subjects::SETTING_OF_ALL_KINDS {
            settings.all = decode(&stored);
        } else if let Some(kind) = subjects::parse_kind_setting(&stored.subject)
            && let Some(setting) = decode(&stored)
        {
            settings.kinds.insert(kind, setting);
        }
    }
    Ok(settings)
}

/// Anybody may have an answer of the server stored in place of a setting, through a reply subject.
fn decode(stored: &StoredMessage) -> Option<KindSetting> {
    if is_copy(&stored.headers) {
        return None;
    }
    let setting = serde_json::from_slice(&stored.payload);
    setting
        .inspect_err(
            |error| debug!(subject = stored.subject, %error, "cannot read the setting of a kind"),
        )
        .ok()
}

/// The message that stores a setting. The stream stores it only if the last one on the subject has the
/// expected sequence (0 for none).
fn message(subject: &str, setting: &KindSetting, expected: u64) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, expected.to_string());
    let payload = serde_json::to_vec(setting).expect("a setting is plain data with text for keys");
    Message {
        subject: subject.to_owned(),
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
    change_on(client, &subjects::kind_setting(kind), at, change).await
}

/// Changes the setting of all kinds in the same way.
///
/// # Errors
/// As those of [`change`].
pub async fn change_of_all(
    client: &NatsClient,
    at: Timestamp,
    change: impl Fn(&mut KindSetting) -> anyhow::Result<()>,
) -> anyhow::Result<KindSetting> {
    change_on(client, subjects::SETTING_OF_ALL_KINDS, at, change).await
}

async fn change_on(
    client: &NatsClient,
    subject: &str,
    at: Timestamp,
    change: impl Fn(&mut KindSetting) -> anyhow::Result<()>,
) -> anyhow::Result<KindSetting> {
    for _ in 0..TRIES {
        let stored = read_on(client, subject).await?;
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
        let message = message(subject, &setting, stored.sequence);
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
pub fn paused_with(stream: Stream, kind: &JobKind, followed: &Followed) -> Vec<String> {
    let mut names = vec![consumer_name(kind)];
    if stream == Stream::Jobs && followed.heeds_priorities() {
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
        delivered: Sequences,
        ts: Timestamp,
    }
    #[derive(Deserialize)]
    struct Sequences {
        stream_seq: u64,
    }
    let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
    let answer = ask(client, subject.clone(), &Value::Null).await;
    let Some(mut answer): Option<Value> = manage::existing(answer)? else {
        return Ok(None);
    };
    let info = Info::deserialize(&answer);
    let info = info.map_err(|error| no_answer(&subject, error.to_string()))?;
    Ok(Some(Delivery {
        paused_until: manage::paused_until(&answer),
        delivered: info.delivered.stream_seq,
        config: answer["config"].take(),
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

/// Pauses a durable consumer of a kind, or lets it deliver, as the settings say that the kind follows. Returns
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
        let followed = followed(client, kind).await?;
        if followed.is_empty() {
            return Ok(look > 0);
        }
        if stream == Stream::Jobs
            && followed.heeds_priorities()
            && delivery.is_of_all_priorities(kind)
        {
            // It is about to be narrowed: `priorities::separate` pauses it, and lets it deliver.
            return Ok(look > 0);
        }
        let wanted = followed.pause_until(delivery.now);
        if wanted == delivery.paused_until {
            return Ok(look > 0);
        }
        pause(client, stream, consumer, wanted).await?;
        // Somebody may have changed setting and durable consumer meanwhile: look again.
    }
    anyhow::bail!("the setting of the kind {kind} changes again and again")
}

/// Does the same with the durable consumers of all kinds. `now` is the time of the server.
///
/// # Errors
/// When the server does not answer in time, or the settings change again and again.
pub async fn enforce_all(client: &NatsClient, now: Timestamp) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        let mut consumers = Vec::new();
        for stream in [Stream::Jobs, Stream::Later] {
            let of_stream = manage::consumers_of_kinds(client, stream).await?;
            consumers.extend(of_stream.into_iter().map(|consumer| (stream, consumer)));
        }
        // Read after them, as in `enforce`. In a cluster, a list may be old, and the setting of all kinds
        // decides which durable consumers are looked at below.
        let mut settings = all(client).await?;
        settings.all = read_of_all(client).await?.setting;
        let mut wrong = Vec::new();
        for (stream, consumer) in consumers {
            let followed = settings.of(&consumer.kind);
            let is_about_to_be_narrowed = stream == Stream::Jobs
                && followed.heeds_priorities()
                && consumer.serves_all_priorities(stream);
            if !followed.is_empty()
                && !is_about_to_be_narrowed
                && followed.pause_until(now) != consumer.paused_until
            {
                wrong.push((stream, consumer));
            }
        }
        let changes = wrong.into_iter().map(async |(stream, consumer)| {
            // In a cluster, the list of settings may be old.
            let followed = followed(client, &consumer.kind).await?;
            let wanted = followed.pause_until(now);
            let change = wanted != consumer.paused_until;
            if change {
                pause(client, stream, &consumer.info.name, wanted).await?;
            }
            Ok::<_, ApiError>(change)
        });
        let changes: Vec<_> = stream::iter(changes)
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        if !changes.contains(&true) {
            return Ok(());
        }
    }
    anyhow::bail!("the settings of kinds change again and again")
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

    #[test]
    fn of_two_pauses_the_later_end_counts() {
        let now = "2026-01-31T10:00:00Z".parse().unwrap();
        let until = |own: Option<KindSetting>, all: Option<KindSetting>| {
            let followed = Followed { own, all };
            let until = followed.pause_until(now);
            assert_eq!(until.is_some(), followed.is_paused(now));
            until.map(|until| until.to_string())
        };
        let (soon, later) = ("2026-01-31T10:00:01Z", "2026-01-31T11:00:00Z");
        let paused = |end| Some(setting(true, end));
        let resumed = || Some(setting(false, None));
        assert_eq!(
            until(paused(Some(soon)), paused(Some(later))).as_deref(),
            Some(later)
        );
        assert_eq!(
            until(paused(Some(later)), paused(Some(soon))).as_deref(),
            Some(later)
        );
        assert_eq!(
            until(paused(Some(soon)), paused(None)).as_deref(),
            Some(FAR)
        );
        assert_eq!(until(paused(Some(soon)), resumed()).as_deref(), Some(soon));
        assert_eq!(until(None, paused(Some(soon))).as_deref(), Some(soon));
        assert_eq!(until(resumed(), resumed()), None);
        assert!(Followed::default().is_empty());
    }
}
