//! Decides what to do with a delivered message, from the message and the record of its job.
//!
//! The intake comes first: it drops a redelivery of a message whose job this consumer still holds
//! (`Leases::has`), and it skips the record look-up of some first deliveries (`first_delivery`). A
//! skipped look-up counts as a job without a record.

use common::{FailedAttempt, JobRecord, JobState, OutcomeError, Timestamp, codes};

use crate::store::SCHEDULED;

/// A delivered message and the record of its job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting<'a> {
    /// `None` if the job has no record, or if its look-up was skipped.
    pub(crate) record: Option<&'a JobRecord>,
    /// The number of the run that the message is for.
    pub(crate) run: u32,
    /// Whether the server made this message from a schedule, at its due time. False for a message
    /// that comes directly from a submitter.
    pub(crate) due: bool,
    /// How often the message was delivered, including this time.
    pub(crate) delivered: u64,
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) run_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// What to do with a delivered message.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Run the job.
    Run {
        attempt: u32,
        /// The earlier failed attempts, including those that ended because their consumer was lost.
        failures: Vec<FailedAttempt>,
    },
    /// Only acknowledge the message: the job has ended, or a message of another run has replaced
    /// this one.
    Done,
    /// The record says that the job waits for its next run, but the consumer that wrote the record
    /// may have stopped before it stored the schedule. Schedule that run unless its message exists.
    PutOff { run: u32, until: Timestamp },
    /// The job waits for the run of this message, and that run is not due before `until`. Give the
    /// message back until then.
    Waits { until: Timestamp },
    /// The job must not start before `until`, and it has no schedule yet: submitters put such a job
    /// directly into the queue. Schedule it.
    Early { until: Timestamp },
    /// The deadline of the job has passed.
    Expired { failures: Vec<FailedAttempt> },
    /// All attempts of the job are used up, the last ones because their consumers were lost.
    Exhausted { failures: Vec<FailedAttempt> },
}

pub(crate) fn decide(sighting: Sighting<'_>) -> Verdict {
    let Sighting { record, run, .. } = sighting;
    let mut failures = Vec::new();
    let mut settled = 0;
    if let Some(record) = record {
        if record.state.is_final() {
            return Verdict::Done;
        }
        if record.run > run {
            return match record.next_at {
                Some(until) if waits(record) && record.run == run + 1 => Verdict::PutOff {
                    run: record.run,
                    until,
                },
                _ => Verdict::Done,
            };
        }
        if let Some(until) = record.next_at
            && record.run == run
            && !sighting.due
            && waits(record)
            && until > sighting.now.after(SCHEDULED)
        {
            return Verdict::Waits { until };
        }
        failures.clone_from(&record.failures);
        if record.run == run {
            settled = record.settled_deliveries;
        }
    }
    let lost = sighting.delivered.saturating_sub(settled + 1);
    for _ in 0..lost.min(u64::from(sighting.max_attempts)) {
        failures.push(FailedAttempt {
            attempt: next(&failures),
            consumer: record
                .filter(|record| record.state == JobState::Running)
                .and_then(|record| record.consumer.clone()),
            at: sighting.now,
            error: OutcomeError::new(
                codes::LOST,
                "the consumer that held the job was lost or disconnected before it settled the job",
            ),
        });
    }
    let attempt = next(&failures);
    if attempt > sighting.max_attempts {
        return Verdict::Exhausted { failures };
    }
    if sighting
        .deadline
        .is_some_and(|deadline| deadline < sighting.now)
    {
        return Verdict::Expired { failures };
    }
    // Only the first run can be early: the server delivers all later runs when they are due.
    let is_new = record.is_none_or(|record| record.state == JobState::Scheduled);
    match sighting.run_at {
        Some(until) if run == 1 && is_new && until > sighting.now => Verdict::Early { until },
        _ => Verdict::Run { attempt, failures },
    }
}

/// Whether the job waits for a scheduled run.
pub(crate) fn waits(record: &JobRecord) -> bool {
    matches!(record.state, JobState::Retrying | JobState::Scheduled)
}

/// Whether the job has ended for good. A dead job may be replayed.
pub(crate) fn is_over(record: &JobRecord) -> bool {
    record.state.is_final() && record.state != JobState::Dead
}

fn next(failures: &[FailedAttempt]) -> u32 {
    failures.last().map_or(0, |failure| failure.attempt) + 1
}

#[cfg(test)]
mod tests {
    use common::JobId;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-31T09:30:00Z".parse().unwrap()
    }

    fn record(state: JobState) -> JobRecord {
        JobRecord::new(JobId::generate(), None, state, now())
    }

    fn sighting(record: Option<&JobRecord>) -> Sighting<'_> {
        Sighting {
            record,
            run: 1,
            due: false,
            delivered: 1,
            max_attempts: 3,
            deadline: None,
            run_at: None,
            now: now(),
        }
    }

    fn attempt(verdict: &Verdict) -> u32 {
        match verdict {
            Verdict::Run { attempt, .. } => *attempt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_job_is_run_and_one_that_has_ended_is_not() {
        assert_eq!(attempt(&decide(sighting(None))), 1);
        for state in [
            JobState::Succeeded,
            JobState::Dead,
            JobState::Cancelled,
            JobState::Expired,
        ] {
            assert_eq!(decide(sighting(Some(&record(state)))), Verdict::Done);
        }
    }

    #[test]
    fn each_consumer_that_was_lost_counts_as_an_attempt_until_there_are_too_many() {
        for delivered in 1..=3 {
            let verdict = decide(Sighting {
                delivered,
                ..sighting(None)
            });
            assert_eq!(u64::from(attempt(&verdict)), delivered);
        }
        let verdict = decide(Sighting {
            delivered: 4,
            ..sighting(None)
        });
        let Verdict::Exhausted { failures } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(failures.len(), 3);
        assert!(
            failures
                .iter()
                .all(|failure| failure.error.code == codes::LOST)
        );
    }

    #[test]
    fn a_job_that_was_given_back_has_lost_no_attempt() {
        let mut record = record(JobState::Queued);
        record.settled_deliveries = 7;
        let verdict = decide(Sighting {
            delivered: 8,
            ..sighting(Some(&record))
        });
        assert_eq!(attempt(&verdict), 1);
    }

    #[test]
    fn a_job_that_was_replayed_has_all_its_attempts_again() {
        let mut record = record(JobState::Queued);
        record.run = 2;
        record.failures = [(3, codes::TRANSIENT), (0, codes::REPLAYED)]
            .map(|(attempt, code)| FailedAttempt {
                attempt,
                consumer: None,
                at: now(),
                error: OutcomeError::new(code, ""),
            })
            .to_vec();
        let verdict = decide(Sighting {
            run: 2,
            ..sighting(Some(&record))
        });
        assert_eq!(attempt(&verdict), 1);
        let Verdict::Run { failures, .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(failures.len(), 2, "what happened before is kept");
    }

    #[test]
    fn a_message_whose_job_moved_on_is_dropped_or_its_move_is_finished() {
        let mut retrying = record(JobState::Retrying);
        retrying.run = 2;
        retrying.next_at = Some(now());
        let put_off = Verdict::PutOff {
            run: 2,
            until: now(),
        };
        assert_eq!(decide(sighting(Some(&retrying))), put_off);
        retrying.run = 3;
        assert_eq!(decide(sighting(Some(&retrying))), Verdict::Done);
    }

    #[test]
    fn a_waiting_job_is_not_run_early_by_a_forged_message() {
        let mut waits = record(JobState::Scheduled);
        waits.run = 2;
        let until = now().shifted(60_000);
        waits.next_at = Some(until);
        let forged = Sighting {
            run: 2,
            ..sighting(Some(&waits))
        };
        assert_eq!(decide(forged), Verdict::Waits { until });
        let due = Sighting {
            due: true,
            ..forged
        };
        assert_eq!(attempt(&decide(due)), 1);
        let later = Sighting {
            now: until,
            ..forged
        };
        assert_eq!(attempt(&decide(later)), 1);
    }

    #[test]
    fn a_job_is_run_neither_early_nor_late() {
        let later = now().after(std::time::Duration::from_secs(1));
        let early = decide(Sighting {
            run_at: Some(later),
            ..sighting(None)
        });
        assert_eq!(early, Verdict::Early { until: later });
        // A redelivery before the due time.
        let waits = record(JobState::Scheduled);
        let early = decide(Sighting {
            run_at: Some(later),
            ..sighting(Some(&waits))
        });
        assert_eq!(early, Verdict::Early { until: later });
        let late = decide(Sighting {
            deadline: Some(now()),
            now: later,
            ..sighting(None)
        });
        assert!(matches!(late, Verdict::Expired { .. }), "{late:?}");
    }
}
