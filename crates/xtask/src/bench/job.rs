//! The jobs that are sent.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use common::{Job, JobId};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a whole message holds, in bytes.
pub(super) const SIZE: usize = 200;

/// The kind of jobs whose handler notes when it starts.
pub(super) const STAMPED: &str = "stamped";

/// The kind of jobs whose handler computes for a millisecond.
pub(super) const BUSY: &str = "busy";

/// So many different jobs are sent again and again: to make each one anew would measure that too.
const DIFFERENT: usize = 1024;

/// Complete jobs of the kind `echo`, with ids as publishers give them.
pub(super) fn echoes() -> Vec<Bytes> {
    (0..DIFFERENT).map(|_| echo()).collect()
}

/// One of them.
pub(super) fn echo() -> Bytes {
    plain("echo")
}

/// A job that keeps a consumer busy.
pub(super) fn busy() -> Bytes {
    plain(BUSY)
}

fn plain(kind: &str) -> Bytes {
    padded(|padding| {
        let payload = serde_json::value::to_raw_value(padding);
        written(
            JobId::generate(),
            kind,
            &payload.expect("a text can be written as JSON"),
        )
    })
}

/// What the handler of such a job does.
pub(super) fn compute() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1) {}
}

/// A job that says when it was sent, in nanoseconds since 1970.
pub(super) fn stamped(now: u64) -> Bytes {
    stamped_with(JobId::generate(), now)
}

/// The same, with this id.
pub(super) fn stamped_with(id: JobId, now: u64) -> Bytes {
    padded(|padding| {
        let payload =
            RawValue::from_string(format!(r#"{{"sent_ns":{now},"padding":"{padding}"}}"#));
        written(id, STAMPED, &payload.expect("this is JSON"))
    })
}

/// When such a job was sent.
pub(super) fn sent_ns(message: &[u8]) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Stamped {
        payload: Stamp,
    }
    #[derive(Deserialize)]
    struct Stamp {
        sent_ns: u64,
    }
    let stamped: Stamped = serde_json::from_slice(message).context("a job without a stamp")?;
    Ok(stamped.payload.sent_ns)
}

fn written(id: JobId, kind: &str, payload: &RawValue) -> Vec<u8> {
    let mut job = Job::new(kind.parse().expect("the name of a kind"));
    job.id = Some(id);
    job.payload = Some(payload);
    serde_json::to_vec(&job).expect("a job is plain data")
}

/// Calls with a padding that makes the message as long as it has to be.
fn padded(message: impl Fn(&str) -> Vec<u8>) -> Bytes {
    let padding = SIZE - message("").len();
    message(&"x".repeat(padding)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_complete_jobs_of_the_stated_size() {
        for message in [echo(), stamped(1_764_000_000_000_000_000)] {
            assert_eq!(message.len(), SIZE);
            assert!(Job::decode(&message).unwrap().id.is_some());
        }
    }
}
