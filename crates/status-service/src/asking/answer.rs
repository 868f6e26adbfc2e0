use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{ConsumerState, ConsumerStatus, Counts, JobKind, RunCounts, RunTime, Timestamp};

use crate::counts::largest;

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// The longest name of a consumer, host or version, in bytes.
const MAX_NAME: usize = 256;

/// The most kinds of one answer that are kept.
pub(crate) const MAX_KINDS: usize = 32;

/// The longest name of a kind, in characters. Longer names are cut.
const MAX_KIND_NAME: usize = 128;

/// The most kinds without a consumer of one answer that are kept.
const MAX_UNSERVED: usize = 8;

/// The largest integer that JSON carries between all languages. A larger count cannot be true, and
/// would spoil the totals for good.
const MAX_COUNT: u64 = 1 << 53;

/// One instance of a consumer, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceId {
    /// Name of the consumer. After a restart another instance may have the same name.
    pub consumer: String,
    /// When the instance started.
    pub started_at: Timestamp,
}

/// A consumer's answer on `jobs.status`, bounded in size.
#[derive(Clone, Debug)]
pub struct StatusAnswer {
    /// The instance that answers.
    pub id: InstanceId,
    /// The host that it runs on.
    pub host: String,
    /// Its version.
    pub version: String,
    /// How long it has been running when it answered.
    pub uptime: Duration,
    /// Whether it takes jobs.
    pub state: ConsumerState,
    /// How many jobs it can run at the same time.
    pub concurrency: u32,
    /// How many jobs it runs.
    pub in_flight: u32,
    /// How many jobs wait in it.
    pub waiting: u64,
    /// How many messages its NATS client had to drop.
    pub dropped: u64,
    /// How its jobs ended since it started.
    pub counts: Counts,
    /// The kinds of which it has processed the most jobs.
    pub kinds: Vec<KindRuns>,
    /// Kinds of waiting durable jobs without a consumer, as far as this consumer knows.
    pub unserved_kinds: Vec<JobKind>,
    /// Time from the question to this answer; zero for an answer between two rounds.
    pub took: Duration,
}

/// The jobs of one kind, of core or durable jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct KindRuns {
    /// Name of the kind; cut if it is too long for one.
    pub kind: String,
    /// How the jobs ended.
    pub counts: Counts,
    /// How long its handler ran.
    pub run_ms: RunTime,
    /// The same as counts; empty if the consumer does not tell it.
    pub run_counts: RunCounts,
}

impl StatusAnswer {
    /// Reads an answer that came `took` after the question.
    ///
    /// # Errors
    /// When the payload is too large, not the status of a consumer, or has impossible values.
    pub fn read(payload: &[u8], took: Duration) -> anyhow::Result<Self> {
        let length = payload.len();
        ensure!(
            length <= MAX_BYTES,
            "an answer of {length} bytes, more than the {MAX_BYTES} that are read"
        );
        let mut status: ConsumerStatus =
            serde_json::from_slice(payload).context("not the status of a consumer")?;
        for (field, text) in [
            ("consumer", &status.consumer),
            ("host", &status.host),
            ("version", &status.version),
        ] {
            ensure!(
                text.len() <= MAX_NAME,
                "`{field}` is longer than {MAX_NAME} bytes"
            );
        }
        ensure!(!status.consumer.is_empty(), "`consumer` is empty");
        let count = largest(&status.totals).max(status.waiting);
        ensure!(
            count.max(status.dropped) <= MAX_COUNT,
            "a count is above 2^53"
        );
        status.unserved_kinds.truncate(MAX_UNSERVED);
        Ok(Self {
            kinds: most_processed_kinds(&status),
            id: InstanceId {
                consumer: status.consumer,
                started_at: status.started_at,
            },
            host: status.host,
            version: status.version,
            uptime: Duration::from_millis(status.uptime_ms),
            state: status.state,
            concurrency: status.concurrency,
            in_flight: status.in_flight,
            waiting: status.waiting,
            dropped: status.dropped,
            counts: status.totals,
            unserved_kinds: status.unserved_kinds,
            took,
        })
    }
}

fn most_processed_kinds(status: &ConsumerStatus) -> Vec<KindRuns> {
    let mut kinds: Vec<_> = status.lanes.values().flat_map(|lane| &lane.kinds).collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.counts.processed));
    kinds.truncate(MAX_KINDS);
    kinds
        .into_iter()
        .map(|(name, kind)| KindRuns {
            kind: name.chars().take(MAX_KIND_NAME).collect(),
            counts: kind.counts,
            run_ms: kind.run_ms,
            run_counts: kind.run_counts.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> serde_json::Value {
        serde_json::json!({
            "consumer": "consumer-1", "host": "worker-1", "version": "0.1.0",
            "started_at": "2026-01-31T09:30:00Z", "uptime_ms": 1500, "state": "running",
            "concurrency": 4, "in_flight": 1, "inbox": 1024, "waiting": 2, "received": 9, "dropped": 0,
            "totals": {"processed": 7, "succeeded": 6, "failed": 1}, "lanes": {},
        })
    }

    fn read(status: &serde_json::Value) -> anyhow::Result<StatusAnswer> {
        StatusAnswer::read(status.to_string().as_bytes(), Duration::ZERO)
    }

    #[test]
    fn an_answer_is_read_and_unknown_fields_are_ignored() {
        let mut status = status();
        status["mood"] = "good".into();
        let answer = read(&status).unwrap();
        assert_eq!(answer.id.consumer, "consumer-1");
        assert_eq!(answer.counts.succeeded, 6);
        assert_eq!(answer.uptime, Duration::from_millis(1500));
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let long = "n".repeat(MAX_NAME + 1);
        for (pointer, value, error) in [
            ("/consumer", "".into(), "`consumer` is empty"),
            ("/consumer", long.clone().into(), "`consumer` is longer"),
            ("/host", long.clone().into(), "`host` is longer"),
            ("/version", long.into(), "`version` is longer"),
            ("/totals/failed", u64::MAX.into(), "above 2^53"),
            ("/waiting", (MAX_COUNT + 1).into(), "above 2^53"),
            ("/dropped", (MAX_COUNT + 1).into(), "above 2^53"),
            ("/state", "asleep".into(), "unknown variant `asleep`"),
            ("/in_flight", (-1).into(), "invalid value"),
        ] {
            let mut status = status();
            *status.pointer_mut(pointer).unwrap() = value;
            let refused = format!("{:#}", read(&status).unwrap_err());
            assert!(refused.contains(error), "{pointer}: {refused}");
        }
        let huge = format!("{}{}", status(), " ".repeat(MAX_BYTES));
        let refused = StatusAnswer::read(huge.as_bytes(), Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains("1048576"), "{refused}");
    }

    #[test]
    fn only_the_kinds_with_the_most_jobs_are_kept() {
        let mut status = status();
        let kinds = (0..100).map(|n| {
            let kind = serde_json::json!({"processed": n, "run_ms": {"p50": 0.5, "p99": n}});
            (format!("kind-{n}-{}", "k".repeat(1_000)), kind)
        });
        let kinds: serde_json::Map<_, _> = kinds.collect();
        status["lanes"] = serde_json::json!({"core": {"kinds": kinds}});
        let answer = read(&status).unwrap();
        assert_eq!(answer.kinds.len(), MAX_KINDS);
        assert_eq!(answer.kinds[0].counts.processed, 99);
        assert_eq!(answer.kinds[0].kind.len(), MAX_KIND_NAME);
        assert!(answer.kinds.iter().all(|kind| kind.counts.processed >= 68));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = StatusAnswer::read(&bytes, Duration::ZERO);
        }
    }
}
