//! The metrics of a consumer. A scrape reads what is counted for `jobs.status` anyway, so metrics
//! cost the jobs nothing.

use std::fmt;
use std::sync::Weak;

use bootstrap::{Families, Times};
use common::{ConsumerState, Counts, subjects};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use worker::{Figures, Lane};

use crate::consumer::Consumer;
use crate::counters::LaneCounters;

/// The label of all kinds without a handler: a message must not be able to create labels.
const OTHER: &str = "other";

/// Reads the metrics of a consumer without keeping it alive.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) Weak<Consumer>);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(consumer) = self.0.upgrade() else {
            return Ok(());
        };
        let mut families = Families::new(encoder);
        let lane = consumer.durable.lane();
        let mut lanes = vec![(subjects::CORE_LANE, &consumer.core)];
        if lane.is_some() {
            lanes.push((subjects::DURABLE_LANE, &consumer.durable.counters));
        }
        jobs(&mut families, &lanes)?;
        state(&mut families, &consumer)?;
        let figures = lane.map(|lane| (lane, lane.figures()));
        let durable_waits = figures.as_ref().map(|(_, figures)| figures.waits.clone());
        waits(&mut families, consumer.waits.times(), durable_waits)?;
        figures.map_or(Ok(()), |(lane, figures)| {
            durable(&mut families, lane, &figures)
        })
    }
}

/// How jobs ended.
fn jobs(families: &mut Families<'_>, lanes: &[(&'static str, &LaneCounters)]) -> fmt::Result {
    let counts: Vec<_> = lanes
        .iter()
        .flat_map(|(lane, counters)| {
            counts_of(counters).map(|(kind, counts)| (*lane, kind, counts))
        })
        .collect();
    let by = |label: &'static str, values: fn(&Counts) -> Vec<(&'static str, u64)>| {
        counts.iter().flat_map(move |(lane, kind, counts)| {
            values(counts).into_iter().map(move |(value, count)| {
                (
                    [("lane", *lane), ("kind", kind.as_str()), (label, value)],
                    count,
                )
            })
        })
    };
    families.counter(
        "jobs_processed_total",
        "Jobs that ended in this consumer; for durable jobs, attempts",
        by("outcome", |counts| {
            vec![
                ("succeeded", counts.succeeded),
                ("failed", counts.failed),
                ("rejected", counts.rejected),
                ("expired", counts.expired),
                ("cancelled", counts.cancelled),
            ]
        }),
    )?;
    families.counter(
        "jobs_handed_back_total",
        "Jobs that were handed back undone because the consumer was full or stopped",
        by("reason", |counts| {
            vec![("busy", counts.busy), ("interrupted", counts.interrupted)]
        }),
    )?;
    families.counter(
        "jobs_retried_total",
        "Attempts that were not the first at their job",
        counts.iter().map(|(lane, kind, counts)| {
            let labels = [("lane", *lane), ("kind", kind.as_str())];
            (labels, counts.retried)
        }),
    )?;
    families.histogram(
        "jobs_run_seconds",
        "How long handlers ran, precise to about one percent; kinds that never ran are left out",
        lanes.iter().flat_map(|(lane, counters)| {
            counters.kinds().filter_map(move |(kind, counters)| {
                let times = counters.run_times();
                let labels = [("lane", *lane), ("kind", kind.as_str())];
                (times.count() > 0).then_some((labels, times))
            })
        }),
    )
}

/// The counts of each kind, and of all other kinds together.
fn counts_of(counters: &LaneCounters) -> impl Iterator<Item = (String, Counts)> {
    let kinds = counters.kinds();
    let mut counts: Vec<_> = kinds
        .map(|(kind, counters)| (kind.to_string(), counters.counts()))
        .collect();
    let others = counters.others.counts();
    // A kind may have this name, too.
    match counts.iter_mut().find(|(kind, _)| kind == OTHER) {
        Some((_, counts)) => *counts += others,
        None => counts.push((OTHER.to_owned(), others)),
    }
    counts.into_iter()
}

/// The state of the consumer.
fn state(families: &mut Families<'_>, consumer: &Consumer) -> fmt::Result {
    let (in_flight, waiting) = consumer.in_flight_and_waiting();
    let state = consumer.state.get();
    for (name, help, value) in [
        ("jobs_in_flight", "Jobs that run", in_flight),
        (
            "jobs_concurrency",
            "Largest number of jobs that run at a time",
            consumer.slots.len(),
        ),
        (
            "jobs_inbox_waiting",
            "Jobs that wait in the consumer, without durable jobs in its inbox",
            waiting,
        ),
        (
            "jobs_inbox_limit",
            "Number of waiting core jobs at which the consumer leaves the queue group",
            consumer.inbox.limit(),
        ),
        (
            "jobs_saturated",
            "Whether the inbox is full and the consumer has left the queue group",
            usize::from(state == ConsumerState::Saturated),
        ),
        (
            "jobs_draining",
            "Whether the consumer is stopping",
            usize::from(state == ConsumerState::Draining),
        ),
    ] {
        families.gauge(name, help, [([], value)])?;
    }
    families.counter(
        "jobs_received_total",
        "Messages received, good or bad",
        [([], consumer.received())],
    )
}

/// How long jobs waited before they started.
fn waits(families: &mut Families<'_>, core: Times, durable: Option<Times>) -> fmt::Result {
    let lanes = [
        (subjects::CORE_LANE, Some(core)),
        (subjects::DURABLE_LANE, durable),
    ];
    families.histogram(
        "jobs_wait_seconds",
        "How long jobs waited before they started: durable jobs in the queue, for each attempt that \
         waited there; core jobs since their created_at, by the clock of their sender",
        lanes
            .into_iter()
            .filter_map(|(lane, times)| Some(([("lane", lane)], times?))),
    )
}

/// What only durable jobs have.
fn durable(families: &mut Families<'_>, lane: &Lane, figures: &Figures) -> fmt::Result {
    families.counter(
        "jobs_redelivered_total",
        "Redeliveries of durable jobs",
        [([], figures.redelivered)],
    )?;
    families.counter(
        "jobs_dead_letters_total",
        "Dead letters that this consumer stored",
        [([], figures.dead_letters)],
    )?;
    families.counter(
        "jobs_overdue_total",
        "Durable jobs whose time had passed and whose message was lost: scheduled again (restored) or \
         ended as dead letters (lost)",
        [("restored", figures.restored), ("lost", figures.lost)]
            .map(|(result, count)| ([("result", result)], count)),
    )?;
    families.counter(
        "jobs_newer_version_total",
        "Deliveries of durable jobs that only a newer consumer can read, and that were put off",
        [([], figures.newer_version)],
    )?;
    families.gauge(
        "jobs_unserved_kinds",
        "Kinds with waiting durable jobs and without a consumer",
        [([], lane.kinds_without_consumer().len())],
    )
}
