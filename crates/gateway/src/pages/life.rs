//! The life of a job, as a list of what happened to it.

use common::{FailedAttempt, JobId, JobRecord, JobState, Timestamp, codes};
use uuid::Uuid;

use super::text::{self, Moment};

/// Something that happened to a job.
pub(crate) struct Event {
    pub(crate) tone: &'static str,
    pub(crate) what: String,
    pub(crate) at: Option<Moment>,
    pub(crate) who: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) text: Option<String>,
}

impl Event {
    fn new(tone: &'static str, what: impl Into<String>, at: Option<Timestamp>) -> Self {
        Self {
            tone,
            what: what.into(),
            at: at.map(Moment::of),
            who: None,
            code: None,
            text: None,
        }
    }

    fn by(mut self, who: Option<&String>) -> Self {
        self.who = who.cloned();
        self
    }

    fn saying(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

/// When an id was made, if it tells: most are made with the job.
fn made(id: JobId) -> Option<Timestamp> {
    let id: Uuid = id.to_string().parse().ok()?;
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let milliseconds = i64::try_from(seconds).ok()?.checked_mul(1_000)?;
    let epoch: Timestamp = "1970-01-01T00:00:00Z".parse().ok()?;
    Some(epoch.shifted(milliseconds + i64::from(nanos / 1_000_000)))
}

/// Attempts that failed, and what was done to dead letters between them.
pub(crate) fn of_failures(failures: &[FailedAttempt]) -> Vec<Event> {
    let events = failures.iter().map(|failure| {
        if failure.is_mark() {
            let (tone, what, text) = if failure.error.code == codes::REPLAYED {
                ("later", "Replayed", "Its attempts are counted anew.")
            } else {
                ("idle", "Discarded", "Its dead letter was removed for good.")
            };
            return Event::new(tone, what, Some(failure.at)).saying(text);
        }
        let who = failure.consumer.as_ref();
        let what = format!("Attempt {} failed", failure.attempt);
        let mut event = Event::new("bad", what, Some(failure.at)).by(who);
        event.code = Some(failure.error.code.to_string());
        event.saying(failure.error.message.clone())
    });
    events.collect()
}

/// All that is known of a job, from its submission to how it is now.
pub(crate) fn of_record(record: &JobRecord) -> Vec<Event> {
    let mut events = Vec::new();
    let only_submitted = record.failures.is_empty()
        && record.attempt == 0
        && matches!(record.state, JobState::Queued | JobState::Scheduled);
    if let Some(made) = made(record.id) {
        events.push(Event::new("idle", "Submitted", Some(made)));
    } else if only_submitted {
        // A job without a record was stored when it was submitted.
        events.push(Event::new("idle", "Submitted", Some(record.at)));
    } else {
        events.push(Event::new("idle", "Submitted", None).saying("Its id does not tell when."));
    }
    let mut failures = if record.state == JobState::Unreadable {
        // That is said below.
        Vec::new()
    } else {
        of_failures(&record.failures)
    };
    // That came after the end of the job.
    let discarded = failures.pop_if(|_| record.is_discarded());
    events.extend(failures);
    let who = record.consumer.as_ref();
    let at = Some(record.at);
    let tone = text::tone(record.state);
    events.push(match record.state {
        JobState::Scheduled => {
            Event::new(tone, "Scheduled", record.next_at).saying("It waits for its time.")
        }
        JobState::Queued => Event::new(tone, "Queued", at).saying("It waits for a consumer."),
        JobState::Running => {
            let what = format!("Attempt {} runs", record.attempt);
            Event::new(tone, what, at).by(who)
        }
        JobState::Retrying => {
            let what = format!("Attempt {} follows", record.attempt.saturating_add(1));
            Event::new(tone, what, record.next_at)
        }
        JobState::Succeeded => {
            let event = Event::new(tone, "Succeeded", at).by(who);
            let ran = record.duration_ms.map(text::milliseconds);
            let ran = ran.map_or_else(String::new, |ran| format!(", ran for {ran}"));
            event.saying(format!("In attempt {}{ran}.", record.attempt))
        }
        JobState::Dead => {
            let reason = record.reason.map_or("given up", text::reason);
            let event = Event::new(tone, "Given up", at).by(who);
            event.saying(if discarded.is_some() {
                format!("It was among the dead letters: {reason}.")
            } else {
                format!("It is among the dead letters: {reason}.")
            })
        }
        JobState::Cancelled => Event::new(tone, "Cancelled", at),
        JobState::Expired => {
            Event::new(tone, "Expired", at).saying("Its deadline had passed before it was started.")
        }
        JobState::Unreadable => Event::new(tone, "Record unreadable", at).saying(
            "What is stored as the record of this job cannot be read. Its next record replaces it.",
        ),
    });
    events.extend(discarded);
    events
}

#[cfg(test)]
mod tests {
    use common::OutcomeError;

    use super::*;

    #[test]
    fn a_life_tells_attempts_replays_and_the_end_in_order() {
        let at: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let mut record = JobRecord::new(id, None, JobState::Succeeded, at);
        let failure = |attempt, code, message: &str| FailedAttempt {
            attempt,
            consumer: None,
            at,
            error: OutcomeError::new(code, message),
        };
        record.attempt = 1;
        record.duration_ms = Some(2.5);
        record.failures = vec![
            failure(1, codes::TRANSIENT, "first"),
            failure(2, codes::LOST, "second"),
            failure(0, codes::REPLAYED, "the job was replayed"),
        ];
        let told: Vec<_> = of_record(&record)
            .into_iter()
            .map(|event| (event.what, event.text.unwrap_or_default()))
            .collect();
        let expected = [
            ("Submitted", ""),
            ("Attempt 1 failed", "first"),
            ("Attempt 2 failed", "second"),
            ("Replayed", "Its attempts are counted anew."),
            ("Succeeded", "In attempt 1, ran for 2.50 ms."),
        ]
        .map(|(what, text)| (what.to_owned(), text.to_owned()));
        assert_eq!(told, expected);
    }

    #[test]
    fn a_discarded_letter_is_the_last_thing_that_is_told_of_a_dead_job() {
        let at: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let mut record = JobRecord::new(id, None, JobState::Dead, at);
        let failure = |attempt, code| FailedAttempt {
            attempt,
            consumer: None,
            at,
            error: OutcomeError::new(code, ""),
        };
        record.failures = vec![failure(1, codes::PERMANENT)];
        let told = |record: &JobRecord| -> Vec<_> {
            let events = of_record(record).into_iter();
            events.map(|event| event.what).collect()
        };
        assert_eq!(told(&record), ["Submitted", "Attempt 1 failed", "Given up"]);
        record.failures.push(failure(0, codes::DISCARDED));
        assert_eq!(
            told(&record),
            ["Submitted", "Attempt 1 failed", "Given up", "Discarded"]
        );
        let given_up = &of_record(&record)[2];
        assert!(given_up.text.as_ref().unwrap().starts_with("It was among"));
    }

    #[test]
    fn an_id_that_was_made_with_the_time_tells_it() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(made(id).unwrap().to_string(), "2023-06-30T03:34:18.518Z");
        assert!(made("018f3a5d-ac96-474b-8cce-b302099a8057".parse().unwrap()).is_none());
    }
}
