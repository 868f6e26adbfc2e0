//! What a scrape reads of a publisher: a copy of its counts, made once a second, so that handing
//! jobs over costs no more than before.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bootstrap::Families;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::report::Counts;

/// What a publisher has done, and what it is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) counts: Counts,
    /// Jobs that have not ended.
    pub(crate) under_way: usize,
    /// How many jobs may be on the wire at a time, where that follows what consumers take.
    pub(crate) window: Option<usize>,
}

/// The figures of a moment ago; clones see the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<Figures>>);

impl Metrics {
    pub(crate) fn set(&self, figures: Figures) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Figures {
            counts,
            under_way,
            window,
        } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcomes = [
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
            ("rejected", counts.rejected),
            ("expired", counts.expired),
            ("given_up", counts.given_up),
            ("sent", counts.sent),
            ("stored", counts.stored),
            ("known_before", counts.known),
        ];
        let mut families = Families::new(encoder);
        families.counter(
            "jobs_publisher_outcomes_total",
            "What became of jobs: confirmed ones have a consumer's outcome, durable ones are stored, others sent",
            outcomes.map(|(outcome, count)| ([("outcome", outcome)], count)),
        )?;
        for (name, help, count) in [
            (
                "jobs_publisher_submitted_total",
                "Jobs that were read or made",
                counts.submitted,
            ),
            (
                "jobs_publisher_attempts_total",
                "How often jobs that have ended were handed over",
                counts.attempts,
            ),
            (
                "jobs_publisher_resubmitted_total",
                "How often jobs that have ended were handed over again",
                counts.resubmitted,
            ),
            (
                "jobs_publisher_bad_lines_total",
                "Lines of the input that are no jobs",
                counts.bad_lines,
            ),
        ] {
            families.counter(name, help, [([], count)])?;
        }
        families.gauge(
            "jobs_publisher_under_way",
            "Jobs that have not ended",
            [([], under_way)],
        )?;
        families.gauge(
            "jobs_publisher_window",
            "How many confirmed jobs may be on the wire at a time, which follows what consumers take",
            window.map(|window| ([], window)),
        )
    }
}
