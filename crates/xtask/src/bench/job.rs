//! The jobs that are sent.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use common::{JobId, JobMessage, Timestamp};
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

/// A job that takes no time, `echo` or `sleep`, as a line of a file: the publisher gives it an id
/// and a time of creation, and with them it is as long as the others.
pub(super) fn line(kind: &str) -> Bytes {
    let payload = |padding: usize| {
        let payload = format!(r#"{{"ms":0{}}}"#, " ".repeat(padding));
        RawValue::from_string(payload).expect("this is JSON")
    };
    let complete = || {
        let payload = payload(0);
        let mut job = job(kind, &payload);
        job.id = Some(JobId::generate());
        job.created_at = Some(Timestamp::now());
        serde_json::to_vec(&job).expect("a job is plain data")
    };
    let payload = payload(SIZE - complete().len());
    let line = serde_json::to_vec(&job(kind, &payload));
    line.expect("a job is plain data").into()
}

/// A job of the kind `sleep` that takes longer than any measurement.
pub(super) fn long(id: JobId) -> Bytes {
    let payload = RawValue::from_string(r#"{"ms":600000}"#.to_owned());
    written(id, "sleep", &payload.expect("this is JSON")).into()
}

fn written(id: JobId, kind: &str, payload: &RawValue) -> Vec<u8> {
    let mut job = job(kind, payload);
    job.id = Some(id);
    serde_json::to_vec(&job).expect("a job is plain data")
}

fn job<'a>(kind: &str, payload: &'a RawValue) -> JobMessage<'a> {
    let mut job = JobMessage::new(kind.parse().expect("the name of a kind"));
    job.payload = Some(payload);
    job
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
            assert!(JobMessage::decode(&message).unwrap().id.is_some());
        }
        let line = line("echo");
        let mut job = JobMessage::decode(&line).unwrap();
        assert_eq!((job.id, job.created_at), (None, None));
        job.id = Some(JobId::generate());
        job.created_at = Some(Timestamp::now());
        assert_eq!(serde_json::to_vec(&job).unwrap().len(), SIZE);
    }
}
