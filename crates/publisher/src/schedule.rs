use std::time::Duration;

use common::{Job, JobKind, Priority, Timestamp, WireDuration};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::pace::Pace;
use crate::submission::Submission;

/// Jobs that are made here, all alike, when they are due.
pub(crate) struct Schedule {
    pub(crate) pace: Pace,
    /// How many are still to be made; without end if none.
    pub(crate) remaining: Option<u64>,
    pub(crate) kind: JobKind,
    pub(crate) payload: Box<RawValue>,
    pub(crate) timeout: Option<WireDuration>,
    /// How long after it was made a job may still be started.
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: Priority,
    /// How long after it was made a job is run at the earliest.
    pub(crate) delay: Option<Duration>,
}

impl Schedule {
    /// Whether all jobs have been made.
    pub(crate) fn ended(&self) -> bool {
        self.remaining == Some(0)
    }

    /// The next job if it is due.
    pub(crate) fn try_next(&mut self) -> Option<Submission> {
        if self.ended() || !self.pace.take(Instant::now()) {
            return None;
        }
        if let Some(remaining) = &mut self.remaining {
            *remaining -= 1;
        }
        let now = Timestamp::now();
        Some(Submission::encode(Job {
            payload: Some(&self.payload),
            created_at: Some(now),
            timeout: self.timeout,
            deadline: self.deadline.map(|after| now.after(after)),
            priority: self.priority,
            run_at: self.delay.map(|delay| now.after(delay)),
            ..Job::new(self.kind.clone())
        }))
    }

    /// The next job, when it is due; none after the last.
    pub(crate) async fn next(&mut self) -> Option<Submission> {
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

    fn schedule(interval: Duration, count: Option<u64>) -> Schedule {
        Schedule {
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
    async fn each_job_is_a_new_one_with_what_was_asked_for() {
        let mut schedule = schedule(Duration::ZERO, Some(2));
        let (one, two) = (
            schedule.next().await.unwrap(),
            schedule.next().await.unwrap(),
        );
        assert!(schedule.next().await.is_none());
        assert_ne!(one.id, two.id);
        let job = Job::decode(&one.message).unwrap();
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
        let mut schedule = schedule(Duration::from_millis(50), None);
        let start = Instant::now();
        assert!(schedule.next().await.is_some());
        assert!(schedule.try_next().is_none());
        assert!(schedule.next().await.is_some());
        assert!(start.elapsed() >= Duration::from_millis(49));
    }
}
