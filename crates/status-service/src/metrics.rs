//! The service's metrics: the fleet after the last round, and what the server stores of durable jobs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bootstrap::Families;
use client::{Storage, Stream, StreamDepth};
use common::{Counts, Timestamp};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::durable_jobs::Backlog;
use crate::fleet::Summary;

/// The values of all metrics. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<MetricValues>>);

/// The values of all metrics. A metric whose value is not known is left out.
#[derive(Debug, Default)]
pub(crate) struct MetricValues {
    /// `None` before the first round.
    pub(crate) fleet: Option<FleetValues>,
    pub(crate) streams: Vec<StreamDepth>,
    pub(crate) storage: Option<Storage>,
    pub(crate) backlog: Option<Backlog>,
    pub(crate) dead_letters: Option<u64>,
}

/// The fleet after the last round.
#[derive(Debug)]
pub(crate) struct FleetValues {
    pub(crate) summary: Summary,
    /// Sum of the concurrency of the consumers that answered.
    pub(crate) concurrency: u64,
    /// Rounds since the start.
    pub(crate) rounds: u64,
    /// Messages ignored since the start.
    pub(crate) ignored: u64,
    /// Number of kinds of waiting durable jobs without a consumer.
    pub(crate) unserved_kinds: usize,
}

impl Metrics {
    /// The values, to read or change.
    pub(crate) fn values(&self) -> MutexGuard<'_, MetricValues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let values = self.values();
        let mut families = Families::new(encoder);
        if let Some(fleet) = &values.fleet {
            consumers(&mut families, fleet)?;
            totals(&mut families, &fleet.summary.totals)?;
        }
        durable_jobs(&mut families, &values)
    }
}

fn consumers(families: &mut Families<'_>, fleet: &FleetValues) -> fmt::Result {
    let summary = &fleet.summary;
    families.gauge(
        "jobs_fleet_consumers",
        "Consumers by state; missing ones are known and do not answer",
        [
            ("running", summary.running),
            ("saturated", summary.saturated),
            ("draining", summary.draining),
            ("missing", summary.missing),
        ]
        .map(|(state, count)| ([("state", state)], count)),
    )?;
    families.gauge(
        "jobs_fleet_in_flight",
        "Jobs that run, in the consumers that answered",
        [([], summary.in_flight)],
    )?;
    families.gauge(
        "jobs_fleet_waiting",
        "Jobs that wait in the consumers that answered",
        [([], summary.waiting)],
    )?;
    families.gauge(
        "jobs_fleet_concurrency",
        "Jobs that can run at the same time in the consumers that answered",
        [([], fleet.concurrency)],
    )?;
    families.gauge(
        "jobs_fleet_unserved_kinds",
        "Kinds of waiting durable jobs without a consumer",
        [([], fleet.unserved_kinds)],
    )?;
    families.gauge(
        "jobs_fleet_round_seconds",
        "Time from the last question to the last answer",
        [([], summary.round_trip.as_secs_f64())],
    )?;
    families.counter(
        "jobs_fleet_rounds_total",
        "Rounds of questions to the consumers",
        [([], fleet.rounds)],
    )?;
    families.counter(
        "jobs_fleet_ignored_answers_total",
        "Messages that were not the status of a consumer, or a second one",
        [([], fleet.ignored)],
    )
}

/// Totals of all consumers that were ever heard of. They never go down while this service runs.
fn totals(families: &mut Families<'_>, totals: &Counts) -> fmt::Result {
    families.counter(
        "jobs_fleet_processed_total",
        "Jobs that ended in any consumer; for durable jobs attempts",
        [
            ("succeeded", totals.succeeded),
            ("failed", totals.failed),
            ("rejected", totals.rejected),
            ("expired", totals.expired),
            ("cancelled", totals.cancelled),
        ]
        .map(|(outcome, count)| ([("outcome", outcome)], count)),
    )?;
    families.counter(
        "jobs_fleet_handed_back_total",
        "Jobs that consumers handed back without a result",
        [("busy", totals.busy), ("interrupted", totals.interrupted)]
            .map(|(reason, count)| ([("reason", reason)], count)),
    )?;
    families.counter(
        "jobs_fleet_retried_total",
        "Jobs that were started for the second time or later",
        [([], totals.retried)],
    )
}

/// What the server stores of durable jobs.
fn durable_jobs(families: &mut Families<'_>, values: &MetricValues) -> fmt::Result {
    let each = || {
        let streams = values.streams.iter();
        streams.map(|depth| ([("stream", depth.stream.name())], depth))
    };
    families.gauge(
        "jobs_stream_messages",
        "Messages of a stream",
        each().map(|(labels, depth)| (labels, depth.messages)),
    )?;
    families.gauge(
        "jobs_stream_bytes",
        "Bytes of a stream",
        each().map(|(labels, depth)| (labels, depth.bytes)),
    )?;
    families.gauge(
        "jobs_stream_limit_bytes",
        "The most bytes of a stream that has a limit of its own",
        each().filter_map(|(labels, depth)| Some((labels, depth.limit_bytes?))),
    )?;
    let of = |stream| values.streams.iter().find(|depth| depth.stream == stream);
    let age = |depth: &StreamDepth| {
        let oldest = depth.oldest.map(|oldest| Timestamp::now().since(oldest));
        ([], oldest.unwrap_or_default().as_secs_f64())
    };
    families.gauge(
        "jobs_queue_oldest_age_seconds",
        "Age of the oldest durable job that waits or runs; 0 without any",
        of(Stream::Jobs).map(age),
    )?;
    families.gauge(
        "jobs_scheduled",
        "Durable jobs that wait for their time, or whose time has come",
        of(Stream::Later).map(|depth| ([], depth.without_ticks)),
    )?;
    families.gauge(
        "jobs_due",
        "Scheduled durable jobs whose time has come, and that wait for a consumer or run",
        values.backlog.iter().map(|backlog| ([], backlog.due)),
    )?;
    let by_kind = values.backlog.iter().flat_map(|backlog| &backlog.by_kind);
    families.gauge(
        "jobs_backlog",
        "Durable jobs of a kind that wait for a consumer or run; not those that wait for their time",
        by_kind.map(|(kind, jobs)| ([("kind", kind.as_str())], *jobs)),
    )?;
    families.gauge(
        "jobs_dead_letters",
        "Dead letters that were neither replayed nor discarded",
        values.dead_letters.map(|letters| ([], letters)),
    )?;
    families.gauge(
        "jobs_storage_bytes",
        "Bytes of all streams of the account together",
        values.storage.map(|storage| ([], storage.bytes)),
    )?;
    families.gauge(
        "jobs_storage_limit_bytes",
        "The most bytes of all streams of the account together",
        values
            .storage
            .and_then(|storage| Some(([], storage.limit_bytes?))),
    )
}
