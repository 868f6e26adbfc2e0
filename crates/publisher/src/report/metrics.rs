//! The publisher's metrics. A scrape reads a copy of the counts that is made once a second, so metrics
//! add no cost to a job.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bootstrap::Families;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::counts::Counts;

/// The values of all metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MetricValues {
    pub(super) counts: Counts,
    /// Jobs whose result is not known yet.
    pub(super) under_way: usize,
    /// The most confirmed jobs that may have no reply at the same time; `None` for other deliveries.
    pub(super) window: Option<usize>,
}

/// The values as they were set last. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Arc<Mutex<MetricValues>>);

impl Metrics {
    pub(super) fn set(&self, values: MetricValues) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = values;
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let MetricValues {
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
            "Jobs by result: the outcome of confirmed ones, whether durable ones are stored, and others sent",
            outcomes.map(|(outcome, count)| ([("outcome", outcome)], count)),
        )?;
        for (name, help, count) in [
            (
                "jobs_publisher_submitted_total",
                "Jobs that were read or generated",
                counts.submitted,
            ),
            (
                "jobs_publisher_attempts_total",
                "How many times jobs that have ended were sent",
                counts.attempts,
            ),
            (
                "jobs_publisher_resubmitted_total",
                "How many times jobs that have ended were sent again",
                counts.resubmitted,
            ),
            (
                "jobs_publisher_bad_lines_total",
                "Lines of the input that are not jobs",
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
            "The most confirmed jobs that may have no reply at the same time; it follows what consumers accept",
            window.map(|window| ([], window)),
        )
    }
}
