//! What a scrape reads: the fleet as the last round left it, and what the durable lane holds.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bootstrap::Families;
use client::{Storage, Stream, StreamDepth};
use common::{Counts, Timestamp};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::{Answer, Round, Summary};

/// What was last seen; clones see the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<Seen>>);

/// What there is to tell; nothing of what is not known.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    fleet: Option<SeenFleet>,
    pub(crate) streams: Vec<StreamDepth>,
    pub(crate) storage: Option<Storage>,
    pub(crate) due: Option<u64>,
    pub(crate) dead_letters: Option<u64>,
}

#[derive(Debug)]
struct SeenFleet {
    summary: Summary,
    concurrency: u64,
    rounds: u64,
    ignored: u64,
    unserved: usize,
}

impl Metrics {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a round: the so manieth, with so many kinds that nobody serves, and so many
    /// messages until now that were no answers.
    pub(crate) fn round(
        &self,
        round: &Round,
        summary: &Summary,
        (rounds, unserved, ignored): (u64, usize, u64),
    ) {
        let concurrency = |answer: &Answer| u64::from(answer.concurrency);
        self.seen().fleet = Some(SeenFleet {
            summary: summary.clone(),
            concurrency: round.answers.iter().map(concurrency).sum(),
            rounds,
            ignored,
            unserved,
        });
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = self.seen();
        let mut families = Families::new(encoder);
        if let Some(fleet) = &seen.fleet {
            consumers(&mut families, fleet)?;
            totals(&mut families, &fleet.summary.totals)?;
        }
        lane(&mut families, &seen)
    }
}

fn consumers(families: &mut Families<'_>, fleet: &SeenFleet) -> fmt::Result {
    let summary = &fleet.summary;
    families.gauge(
        "jobs_fleet_consumers",
        "Consumers by state; missing are those that are known and do not answer",
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
        "The most jobs that run at a time in the consumers that answered",
        [([], fleet.concurrency)],
    )?;
    families.gauge(
        "jobs_fleet_unserved_kinds",
        "Kinds of which durable jobs wait and that no consumer serves",
        [([], fleet.unserved)],
    )?;
    families.gauge(
        "jobs_fleet_round_seconds",
        "Time from the last question to the last answer",
        [([], summary.round_trip.as_secs_f64())],
    )?;
    families.counter(
        "jobs_fleet_rounds_total",
        "How often the consumers were asked",
        [([], fleet.rounds)],
    )?;
    families.counter(
        "jobs_fleet_ignored_answers_total",
        "Messages that were no answers, or second ones",
        [([], fleet.ignored)],
    )
}

/// Of all consumers that were ever heard of: they never go down while this service lives.
fn totals(families: &mut Families<'_>, totals: &Counts) -> fmt::Result {
    families.counter(
        "jobs_fleet_processed_total",
        "Jobs that came to an end in any consumer; in the durable lane attempts",
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
        "Jobs that consumers handed back undone",
        [("busy", totals.busy), ("interrupted", totals.interrupted)]
            .map(|(reason, count)| ([("reason", reason)], count)),
    )?;
    families.counter(
        "jobs_fleet_retried_total",
        "Jobs that were started for the second time or later",
        [([], totals.retried)],
    )
}

/// What the durable lane holds.
fn lane(families: &mut Families<'_>, seen: &Seen) -> fmt::Result {
    let each = || {
        let streams = seen.streams.iter();
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
        "The most bytes that a stream takes, where it has a limit of its own",
        each().filter_map(|(labels, depth)| Some((labels, depth.limit_bytes?))),
    )?;
    let of = |stream| seen.streams.iter().find(|depth| depth.stream == stream);
    let age = |depth: &StreamDepth| {
        let oldest = depth.oldest.map(|oldest| Timestamp::now().since(oldest));
        ([], oldest.unwrap_or_default().as_secs_f64())
    };
    families.gauge(
        "jobs_queue_oldest_age_seconds",
        "How long the oldest job of the durable queue has been there, be it waiting or running; 0 without any",
        of(Stream::Jobs).map(age),
    )?;
    families.gauge(
        "jobs_scheduled",
        "Durable jobs that wait for their time, or whose time has come",
        of(Stream::Later).map(|depth| ([], depth.messages)),
    )?;
    families.gauge(
        "jobs_due",
        "Durable jobs that had to wait for their time, and now wait for a consumer or run",
        seen.due.map(|due| ([], due)),
    )?;
    families.gauge(
        "jobs_dead_letters",
        "Dead letters that nobody has replayed or discarded yet",
        seen.dead_letters.map(|letters| ([], letters)),
    )?;
    families.gauge(
        "jobs_storage_bytes",
        "Bytes of all streams of the account together",
        seen.storage.map(|storage| ([], storage.bytes)),
    )?;
    families.gauge(
        "jobs_storage_limit_bytes",
        "The most bytes of all streams of the account together",
        seen.storage
            .and_then(|storage| Some(([], storage.limit_bytes?))),
    )
}
