//! What a service shows on `/metrics`, read strictly.

use std::collections::{BTreeMap, BTreeSet};

use crate::eventually::{DEADLINE, eventually};
use crate::http::{HttpAnswer, http};
use crate::service::Service;

/// One scrape: each sample by its name and labels, as they stand in the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
    /// Each family and its type.
    families: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads the text of `OpenMetrics` 1.0 that our services write.
    ///
    /// # Panics
    ///
    /// When it breaks a rule of the format: a sample stands apart from the rest of its family or
    /// comes twice, a name does not fit its type or unit, a histogram does not hold all that it
    /// counts, or the end is missing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        let body = text.strip_suffix("# EOF\n").expect("# EOF at the end");
        let mut family = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (what, rest) = comment.split_once(' ').expect("a kind of comment");
                let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
                match what {
                    "HELP" => assert!(!said.is_empty(), "no help: {line}"),
                    "TYPE" => {
                        name.clone_into(&mut family);
                        let before = metrics.families.insert(name.to_owned(), said.to_owned());
                        assert_eq!(before, None, "{name} comes twice");
                    }
                    "UNIT" => assert!(name.ends_with(said), "the unit is not in {name}"),
                    _ => panic!("not understood: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().unwrap_or_default();
            let suffixes: &[&str] = match metrics.families.get(&family).map(String::as_str) {
                Some("counter") => &["_total"],
                Some("gauge") => &[""],
                Some("info") => &["_info"],
                Some("histogram") => &["_sum", "_count", "_bucket"],
                other => panic!("{line} has the type {other:?}"),
            };
            let fits = |suffix: &&str| name == format!("{family}{suffix}");
            assert!(suffixes.iter().any(fits), "{line} in the family {family}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let before = metrics.samples.insert(series.to_owned(), value);
            assert_eq!(before, None, "{series} comes twice");
        }
        metrics.check_buckets();
        metrics
    }

    fn check_buckets(&self) {
        let histograms = self
            .families
            .iter()
            .filter(|(_, kind)| *kind == "histogram");
        for (family, _) in histograms {
            for (count, value) in &self.samples {
                let Some(labels) = count.strip_prefix(&format!("{family}_count")) else {
                    continue;
                };
                let labels = labels.strip_prefix('{').map_or("}", |labels| labels);
                let comma = if labels == "}" { "" } else { "," };
                let all = format!("{family}_bucket{{le=\"+Inf\"{comma}{labels}");
                assert_eq!(self.get(&all), Some(*value), "{count}");
            }
        }
    }

    /// A sample by its name and all labels, such as `jobs_x_total{kind="a"}`.
    #[must_use]
    pub fn get(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// All samples of a name together; for counts.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count is a whole number"
    )]
    pub fn sum(&self, name: &str) -> u64 {
        let of_name = self.samples.iter().filter(|(series, _)| {
            series
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        of_name.map(|(_, value)| *value as u64).sum()
    }

    /// The names of all samples, without labels.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let names = self.samples.keys();
        names
            .filter_map(|series| series.split('{').next().map(str::to_owned))
            .collect()
    }

    /// Each sample by its name and labels.
    #[must_use]
    pub fn series(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }
}

impl Service {
    /// Asks the monitor of a service for a page.
    ///
    /// # Panics
    ///
    /// When the service does not say where that is, or it does not answer.
    pub async fn look_at(&mut self, path: &str) -> HttpAnswer {
        let says = "metrics on http://";
        let line = self.wait_for_line(|line| line.contains(says)).await;
        let address = line.split_once(says).map_or("", |(_, rest)| rest);
        let address = address.split('/').next().unwrap_or_default();
        http("GET", address, path)
            .await
            .unwrap_or_else(|error| panic!("{path} of {address}: {error:#}"))
    }

    /// What it shows on `/metrics`.
    ///
    /// # Panics
    ///
    /// When it shows nothing, or breaks a rule of the format.
    pub async fn scrape(&mut self) -> Metrics {
        let answer = self.look_at("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics::parse(&answer.body)
    }

    /// What it shows on `/metrics` as soon as `wanted` holds for it.
    ///
    /// # Panics
    ///
    /// When that does not come to pass within [`DEADLINE`].
    pub async fn scrape_until(&mut self, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        let mut last = Metrics::default();
        let found = tokio::time::timeout(
            DEADLINE,
            eventually(2 * DEADLINE, "metrics", async || {
                last = self.scrape().await;
                wanted(&last).then(|| last.clone())
            }),
        )
        .await;
        found.unwrap_or_else(|_| panic!("never came to pass, but {:#?}", last.samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_b A.\n# TYPE a_b counter\na_b_total{kind=\"x\"} 2\n\
        a_b_total{kind=\"y\"} 3\n# EOF\n";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(GOOD);
        assert_eq!(metrics.get("a_b_total{kind=\"y\"}"), Some(3.0));
        assert_eq!(metrics.sum("a_b_total"), 5);
        assert_eq!(metrics.names(), BTreeSet::from(["a_b_total".to_owned()]));
    }

    #[test]
    #[should_panic(expected = "comes twice")]
    fn a_sample_that_comes_twice_is_an_error() {
        let _ = Metrics::parse(&GOOD.replace("kind=\"y\"", "kind=\"x\""));
    }

    #[test]
    #[should_panic(expected = "in the family a_b")]
    fn a_count_without_its_suffix_is_an_error() {
        let _ = Metrics::parse(&GOOD.replace("_total", ""));
    }
}
