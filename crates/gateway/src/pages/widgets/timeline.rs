//! The timeline of a job: what happened to it, in order.

use common::{FailedAttempt, JobId, JobRecord, JobState, Timestamp, codes};
use uuid::Uuid;

use super::moment::Moment;
use super::text;

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

/// When an id was generated; `None` if it does not contain the time. Most are generated with the job.
fn generated_at(id: JobId) -> Option<Timestamp> {
    let id: Uuid = id.to_string().parse().ok()?;
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let milliseconds = i64::try_from(seconds).ok()?.checked_mul(1_000)?;
    let epoch: Timestamp = "1970-01-01T00:00:00Z".parse().ok()?;
    Some(epoch.shifted(milliseconds + i64::from(nanos / 1_000_000)))
}

/// The failed attempts, with the replays and discards between them.
pub(crate) fn of_failures(failures: &[FailedAttempt]) -> Vec<Event> {
    let events = failures.iter().map(|failure| {
        if failure.is_mark() {
            let (tone, what, text) = if failure.error.code == codes::REPLAYED {
                ("later", "Replayed", "Its attempts begin at 1 again.")
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

/// All that is known of a job, from its submission to its current state. `has_dead_letter` says whether
/// its dead letter exists.
pub(crate) fn of_record(record: &JobRecord, has_dead_letter: bool) -> Vec<Event> {
    let mut events = Vec::new();
    let only_submitted = record.failures.is_empty()
        && record.attempt == 0
        && matches!(record.state, JobState::Queued | JobState::Scheduled);
    if let Some(at) = generated_at(record.id) {
        events.push(Event::new("idle", "Submitted", Some(at)));
    } else if only_submitted {
        // A job without a record of its own: this is the time at which its message was stored.
        events.push(Event::new("idle", "Submitted", Some(record.at)));
    } else {
        events.push(Event::new("idle", "Submitted", None).saying("The time is not known."));
    }
    let mut failures = if record.state == JobState::Unreadable {
        // The state says the same.
        Vec::new()
    } else {
        of_failures(&record.failures)
    };
    // The discard came after the end of the job.
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
            event.saying(if has_dead_letter {
                format!("It is among the dead letters: {reason}.")
            } else {
                format!("It was among the dead letters: {reason}.")
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
    if let Some(event) = discarded {
        events.push(if has_dead_letter {
            Event {
                tone: "warn",
                what: "Discard interrupted".to_owned(),
                ..event.saying("Its dead letter still exists: discard it again, or replay it.")
            }
        } else {
            event
        });
    }
    events
}

#[cfg(test)]
mod tests {
    use common::OutcomeError;

    use super::*;

    #[test]
    fn a_timeline_shows_attempts_replays_and_the_end_in_order() {
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
        let told: Vec<_> = of_record(&record, false)
            .into_iter()
            .map(|event| (event.what, event.text.unwrap_or_default()))
            .collect();
        let expected = [
            ("Submitted", ""),
            ("Attempt 1 failed", "first"),
            ("Attempt 2 failed", "second"),
            ("Replayed", "Its attempts begin at 1 again."),
            ("Succeeded", "In attempt 1, ran for 2.50 ms."),
        ]
        .map(|(what, text)| (what.to_owned(), text.to_owned()));
        assert_eq!(told, expected);
    }

    #[test]
    fn a_discard_is_the_last_event_of_a_dead_job_and_one_that_was_interrupted_says_so() {
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
        let told = |record: &JobRecord, has_dead_letter| -> Vec<_> {
            let events = of_record(record, has_dead_letter).into_iter();
            events.map(|event| event.what).collect()
        };
        assert_eq!(
            told(&record, true),
            ["Submitted", "Attempt 1 failed", "Given up"]
        );
        record.failures.push(failure(0, codes::DISCARDED));
        assert_eq!(
            told(&record, false),
            ["Submitted", "Attempt 1 failed", "Given up", "Discarded"]
        );
        assert_eq!(told(&record, true).last().unwrap(), "Discard interrupted");
        let given_up = &of_record(&record, false)[2];
        assert!(given_up.text.as_ref().unwrap().starts_with("It was among"));
    }

    #[test]
    fn an_id_that_contains_the_time_tells_it() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(
            generated_at(id).unwrap().to_string(),
            "2023-06-30T03:34:18.518Z"
        );
        assert!(generated_at("018f3a5d-ac96-474b-8cce-b302099a8057".parse().unwrap()).is_none());
    }
}
