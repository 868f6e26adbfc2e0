use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ConsumerState, Counts, JobKind, RunCounts, RunTime, Timestamp};

/// A request on `jobs.fleet`; an empty message asks for the first page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FleetRequest {
    /// Consumers after this one: [`Fleet::next`] of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most consumers in the answer; 200 if absent, and never more than 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only consumers whose name or host contains this, in capital or small letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
}

/// The fleet as a status service knows it: the totals, and a page of the consumers.
///
/// Totals count every consumer that has answered since the status service started, and never go down.
/// Readers must ignore fields that they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fleet {
    /// Which status service answers.
    pub instance: String,
    /// Since when it has been counting.
    pub started_at: Timestamp,
    /// When the last round of questions ended; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
    /// How often the consumers are asked, in milliseconds.
    pub interval_ms: u64,
    /// Consumers that answered the last round.
    pub answering: u64,
    /// Consumers that are known, but no longer answer.
    pub missing: u64,
    /// Slots of those that answered.
    pub concurrency: u64,
    /// Jobs that run in them.
    pub in_flight: u64,
    /// Jobs that wait in them.
    pub waiting: u64,
    /// How jobs have ended, in all consumers that have ever answered.
    pub totals: Counts,
    /// The smallest and the largest share of the jobs of the last round that one consumer had, in
    /// percent; absent while there is nothing to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_percent: Option<[f64; 2]>,
    /// Kinds with waiting durable jobs that no consumer serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved_kinds: Vec<JobKind>,
    /// The kinds that the consumers which answered have met most often, at most 50.
    #[serde(default)]
    pub kinds: Vec<FleetKind>,
    /// A page of the consumers, in the order of their names.
    pub consumers: Vec<FleetMember>,
    /// Asks for the page after this one; absent if it is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// ```
/// use common::{Fleet, FleetKind, FleetMember, FleetRequest, Presence};
///
/// let page = FleetRequest { limit: Some(50), ..FleetRequest::default() };
/// assert_eq!(serde_json::to_string(&page)?, r#"{"limit":50}"#);
///
/// fn missing(fleet: &Fleet) -> Vec<&str> {
///     let missing = |member: &&FleetMember| member.presence == Presence::Missing;
///     fleet.consumers.iter().filter(missing).map(|member| &*member.consumer).collect()
/// }
///
/// fn slowest(fleet: &Fleet) -> Option<&FleetKind> {
///     fleet.kinds.iter().max_by(|a, b| a.run_ms.p99.total_cmp(&b.run_ms.p99))
/// }
///
/// let fleet = Fleet::new("status-1".to_owned(), common::Timestamp::now(), std::time::Duration::from_secs(5));
/// assert!(missing(&fleet).is_empty() && slowest(&fleet).is_none());
/// # Ok::<(), serde_json::Error>(())
/// ```
impl Fleet {
    /// What a status service knows before its first round.
    #[must_use]
    pub fn new(instance: String, started_at: Timestamp, interval: Duration) -> Self {
        Self {
            instance,
            started_at,
            asked_at: None,
            interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            answering: 0,
            missing: 0,
            concurrency: 0,
            in_flight: 0,
            waiting: 0,
            totals: Counts::default(),
            spread_percent: None,
            unserved_kinds: Vec::new(),
            kinds: Vec::new(),
            consumers: Vec::new(),
            next: None,
        }
    }
}

/// One kind of jobs, in all consumers that answered the last round together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetKind {
    /// The kind.
    pub kind: String,
    /// How its jobs ended since these consumers started.
    #[serde(flatten)]
    pub counts: Counts,
    /// How long its handler ran since these consumers started: the worst of them for each quantile.
    pub run_ms: RunTime,
    /// How long its handler ran since the status service first saw the kind, in all consumers together.
    /// The counts do not go down while the kind is in the list. Absent if all consumers are of an older
    /// version, which does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_counts: Option<RunCounts>,
}

/// One life of a consumer, by its last answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetMember {
    /// Instance name.
    pub consumer: String,
    /// Host name of the machine or container.
    pub host: String,
    /// Version of the consumer.
    pub version: String,
    /// When this life began.
    pub started_at: Timestamp,
    /// Whether it answers.
    pub presence: Presence,
    /// Whether it takes jobs, by its last answer.
    pub state: ConsumerState,
    /// The most jobs that it runs at a time.
    pub concurrency: u32,
    /// Jobs that ran in it.
    pub in_flight: u32,
    /// Jobs that waited in it.
    pub waiting: u64,
    /// How its jobs ended since it started.
    pub counts: Counts,
    /// How long its handlers ran: the worst of its kinds for each quantile.
    pub run_ms: RunTime,
    /// When it answered last.
    pub answered_at: Timestamp,
    /// How long that answer took, in milliseconds.
    pub took_ms: f64,
}

/// Whether a consumer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It answered the last round.
    Present,
    /// It did not answer, and has not said that it stops.
    Missing,
}
