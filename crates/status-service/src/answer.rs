use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{ConsumerState, ConsumerStatus, Counts, JobKind, RunTime, Timestamp};

use crate::counts::largest;

/// The most bytes of one answer that are read.
const MAX_BYTES: usize = 1024 * 1024;

/// The most bytes of a name, which is kept after the answer is gone.
const MAX_NAME: usize = 256;

/// The most kinds whose run times are kept, and the most characters of their names.
const MAX_KINDS: usize = 32;
const MAX_KIND: usize = 128;

/// The most kinds without a consumer that are kept.
const MAX_UNSERVED: usize = 8;

/// The largest whole number that JSON carries between all languages; what is above it was never
/// counted, and would spoil the totals for good.
const MAX_COUNT: u64 = 1 << 53;

/// One life of a consumer, from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceId {
    /// Name of the instance, which another life may have too.
    pub consumer: String,
    /// When this life began.
    pub started_at: Timestamp,
}

/// What is kept of a consumer's answer: bounded in size, whatever was sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who answers.
    pub id: InstanceId,
    /// On which host.
    pub host: String,
    /// Which version of the consumer.
    pub version: String,
    /// How long it has been running.
    pub uptime: Duration,
    /// Whether it takes jobs.
    pub state: ConsumerState,
    /// The most jobs that it runs at a time.
    pub concurrency: u32,
    /// Jobs that run in it.
    pub in_flight: u32,
    /// Jobs that wait in it.
    pub waiting: u64,
    /// Messages that its NATS client had to drop.
    pub dropped: u64,
    /// How its jobs ended since it started.
    pub counts: Counts,
    /// The kinds that it has met most often.
    pub kinds: Vec<KindRuns>,
    /// Kinds of which durable jobs wait and that nobody serves, as this consumer sees it.
    pub unserved_kinds: Vec<JobKind>,
    /// Time from the question to this answer.
    pub took: Duration,
}

/// How the jobs of one kind ended in one lane, and how long they ran.
#[derive(Clone, Debug, PartialEq)]
pub struct KindRuns {
    /// The kind, cut if it is too long to be one.
    pub kind: String,
    /// How its jobs ended.
    pub counts: Counts,
    /// How long its handler ran.
    pub run_ms: RunTime,
}

/// No more of them than are shown.
fn unserved(mut kinds: Vec<JobKind>) -> Vec<JobKind> {
    kinds.truncate(MAX_UNSERVED);
    kinds
}

impl Answer {
    /// Reads an answer that came `took` after the question.
    ///
    /// # Errors
    /// When it is no status of a consumer, too large, or says what cannot be.
    pub fn read(payload: &[u8], took: Duration) -> anyhow::Result<Self> {
        let length = payload.len();
        ensure!(
            length <= MAX_BYTES,
            "an answer of {length} bytes, more than the {MAX_BYTES} that are read"
        );
        let status: ConsumerStatus =
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
        Ok(Self {
            kinds: kinds(&status),
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
            unserved_kinds: unserved(status.unserved_kinds),
            took,
        })
    }
}

fn kinds(status: &ConsumerStatus) -> Vec<KindRuns> {
    let mut kinds: Vec<_> = status.lanes.values().flat_map(|lane| &lane.kinds).collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.counts.processed));
    kinds.truncate(MAX_KINDS);
    kinds
        .into_iter()
        .map(|(name, kind)| KindRuns {
            kind: name.chars().take(MAX_KIND).collect(),
            counts: kind.counts,
            run_ms: kind.run_ms,
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

    fn read(status: &serde_json::Value) -> anyhow::Result<Answer> {
        Answer::read(status.to_string().as_bytes(), Duration::ZERO)
    }

    #[test]
    fn an_answer_is_read_and_fields_that_are_not_known_are_passed_over() {
        let mut status = status();
        status["mood"] = "good".into();
        let answer = read(&status).unwrap();
        assert_eq!(answer.id.consumer, "consumer-1");
        assert_eq!(answer.counts.succeeded, 6);
        assert_eq!(answer.uptime, Duration::from_millis(1500));
    }

    #[test]
    fn what_no_consumer_can_say_is_refused_by_name() {
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
        let refused = Answer::read(huge.as_bytes(), Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains("1048576"), "{refused}");
    }

    #[test]
    fn the_kinds_that_were_met_most_often_are_kept_and_no_others() {
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
        assert_eq!(answer.kinds[0].kind.len(), MAX_KIND);
        assert!(answer.kinds.iter().all(|kind| kind.counts.processed >= 68));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Answer::read(&bytes, Duration::ZERO);
        }
    }
}
