use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// The labels of one sample.
pub type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Writes the metrics of a [`Collector`](prometheus_client::collector::Collector), each under its full
/// name as in a query. The unit and `_total` are taken from the name.
///
/// Each name may be written once in a scrape, with all its samples. A metric without samples is left
/// out.
#[derive(Debug)]
pub struct Families<'a>(DescriptorEncoder<'a>);

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// The sum of all times, in seconds.
    pub sum: f64,
    /// Buckets in ascending order: the upper bound in seconds, and how many times lie in the bucket.
    pub buckets: Vec<(f64, u64)>,
    /// How many times lie above the last bound.
    pub above: u64,
}

impl Times {
    /// The number of times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }
}

impl<'a> Families<'a> {
    /// Writes to the encoder of a scrape.
    #[must_use]
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Writes a counter, which only grows; its name ends with `_total`.
    ///
    /// # Errors
    /// When writing to the scrape fails.
    pub fn counter<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let stem = name.strip_suffix("_total").unwrap_or(name);
        self.write(stem, help, MetricType::Counter, samples, |mut to, value| {
            to.encode_counter::<NoLabelSet, V, f64>(&value, None)
        })
    }

    /// Writes a gauge, which goes up and down.
    ///
    /// # Errors
    /// When writing to the scrape fails.
    pub fn gauge<'l, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        self.write(name, help, MetricType::Gauge, samples, |mut to, value| {
            to.encode_gauge(&value)
        })
    }

    /// Writes a histogram of times; its name ends with `_seconds`.
    ///
    /// # Errors
    /// When writing to the scrape fails.
    pub fn histogram<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, Times)>,
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        self.write(name, help, kind, samples, |mut to, times| {
            let count = times.count();
            let mut buckets = times.buckets;
            buckets.push((f64::INFINITY, times.above));
            to.encode_histogram::<NoLabelSet>(times.sum, count, &buckets, None)
        })
    }

    /// Writes constant labels; its name ends with `_info`.
    ///
    /// # Errors
    /// When writing to the scrape fails.
    pub fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &Labels<'_, N>,
    ) -> fmt::Result {
        let stem = name.strip_suffix("_info").unwrap_or(name);
        self.0
            .encode_descriptor(stem, help, None, MetricType::Info)?
            .encode_info(labels)
    }

    fn write<'l, const N: usize, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
        one: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let (stem, unit) = unit_of(name);
        let mut family = self.0.encode_descriptor(stem, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            one(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

/// The name without its unit, and the unit; `None` if the name has none.
fn unit_of(name: &str) -> (&str, Option<Unit>) {
    for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
        if let Some(stem) = name.strip_suffix(suffix) {
            return (stem, Some(unit));
        }
    }
    (name, None)
}
