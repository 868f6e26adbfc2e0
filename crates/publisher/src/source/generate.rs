use std::time::Duration;

use common::{JobKind, JobMessage, Priority, Timestamp, WireDuration};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::pace::Pace;
use crate::submission::Submission;

/// Generates jobs that differ only in their id and their times.
pub(crate) struct Generator {
    pub(super) pace: Pace,
    /// How many jobs are still to be made; `None` if there is no end.
    pub(super) remaining: Option<u64>,
    pub(super) kind: JobKind,
    pub(super) payload: Box<RawValue>,
    pub(super) timeout: Option<WireDuration>,
    /// How long after its creation a job may still start.
    pub(super) deadline: Option<Duration>,
    pub(super) priority: Priority,
    /// How long after its creation a job may start at the earliest.
    pub(super) delay: Option<Duration>,
}

impl Generator {
    /// Whether all jobs have been made.
    pub(super) fn ended(&self) -> bool {
        self.remaining == Some(0)
    }

    /// The next job; `None` if it is not due yet or all were made.
    pub(super) fn try_next(&mut self) -> Option<Submission> {
        if self.ended() || !self.pace.take(Instant::now()) {
            return None;
        }
        if let Some(remaining) = &mut self.remaining {
            *remaining -= 1;
        }
        let now = Timestamp::now();
        Some(Submission::encode(JobMessage {
            payload: Some(&self.payload),
            created_at: Some(now),
            timeout: self.timeout,
            deadline: self.deadline.map(|after| now.after(after)),
            priority: self.priority,
            run_at: self.delay.map(|delay| now.after(delay)),
            ..JobMessage::new(self.kind.clone())
        }))
    }

    /// Waits until the next job is due; `None` after the last one.
    pub(super) async fn next(&mut self) -> Option<Submission> {
        while !self.ended() {
            if let Some(submission) = self.try_next() {
                return Some(submission);
            }
            tokio::time::sleep_until(self.pace.due()).await;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(interval: Duration, count: Option<u64>) -> Generator {
        Generator {
            pace: Pace::every(interval, Instant::now()),
            remaining: count,
            kind: "mail.send".parse().unwrap(),
            payload: RawValue::from_string(r#"{"to": "a"}"#.to_owned()).unwrap(),
            timeout: "30s".parse().ok(),
            deadline: Some(Duration::from_mins(1)),
            priority: Priority::Normal,
            delay: None,
        }
    }

    #[tokio::test]
    async fn each_job_has_an_id_of_its_own_and_the_configured_fields() {
        let mut generator = generator(Duration::ZERO, Some(2));
        let (one, two) = (
            generator.next().await.unwrap(),
            generator.next().await.unwrap(),
        );
        assert!(generator.next().await.is_none());
        assert_ne!(one.id, two.id);
        let job = JobMessage::decode(&one.message).unwrap();
        assert_eq!(job.id, Some(one.id));
        assert_eq!(job.kind.as_str(), "mail.send");
        assert_eq!(job.payload.unwrap().get(), r#"{"to": "a"}"#);
        assert_eq!(job.timeout, "30s".parse().ok());
        let left = job.deadline.unwrap().since(job.created_at.unwrap());
        assert!(
            left.abs_diff(Duration::from_mins(1)) < Duration::from_secs(1),
            "{left:?}"
        );
    }

    #[tokio::test]
    async fn the_next_job_waits_until_it_is_due() {
        let mut generator = generator(Duration::from_millis(50), None);
        let start = Instant::now();
        assert!(generator.next().await.is_some());
        assert!(generator.try_next().is_none());
        assert!(generator.next().await.is_some());
        assert!(start.elapsed() >= Duration::from_millis(49));
    }
}
