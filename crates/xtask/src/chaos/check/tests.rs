//! Forged histories: each rule has one that keeps it and one that breaks it.

use common::JobId;
use common::JobState::{self, Cancelled, Dead, Expired, Succeeded};

use super::{Rule, check};
use crate::chaos::fault::Fault;
use crate::chaos::history::RunOutcome::{self, Failed, Succeeded as Done};
use crate::chaos::history::{Event, FinalRecord, Micros, RunStart, Submission, Way};
use crate::chaos::ledger::Kind;

const SECOND: Micros = 1_000_000;

/// One job, which is acknowledged at 1 s.
struct Job {
    id: JobId,
    submission: Submission,
}

impl Job {
    fn of(kind: Kind) -> Self {
        let id = JobId::generate();
        let submission = Submission {
            at: SECOND / 2,
            id,
            way: Way::Client,
            kind: kind.name().to_owned(),
            run_at: None,
            deadline: None,
            key: None,
        };
        Self { id, submission }
    }

    fn submitted(&self) -> [Event; 2] {
        let (at, id) = (SECOND, self.id);
        [
            Event::Submitted(self.submission.clone()),
            Event::Acknowledged { at, id },
        ]
    }

    /// A run of the first attempt, from and to these seconds.
    fn runs(&self, consumer: &str, from: Micros, to: Micros, outcome: RunOutcome) -> [Event; 2] {
        let run = format!("{consumer}.{from}");
        let start = self.begins(consumer, from);
        let at = to * SECOND;
        [start, Event::RunEnd { at, run, outcome }]
    }

    /// A run without an end.
    fn begins(&self, consumer: &str, from: Micros) -> Event {
        Event::RunStart(RunStart {
            at: from * SECOND,
            run: format!("{consumer}.{from}"),
            id: self.id,
            attempt: 1,
            kind: self.submission.kind.clone(),
            consumer: consumer.to_owned(),
        })
    }

    /// The record of its end, as it is read this time.
    fn record(&self, read: u32, state: JobState, at: Micros) -> Event {
        Event::Record(FinalRecord {
            read,
            id: self.id,
            at: at * SECOND,
            state,
            attempt: 1,
            run: 1,
            reason: None,
        })
    }

    fn ends(&self, state: JobState, at: Micros) -> [Event; 2] {
        [1, 2].map(|read| self.record(read, state, at))
    }
}

fn fault(fault: Fault, target: &str, from: Micros, to: Micros) -> Event {
    Event::Fault {
        from: from * SECOND,
        to: to * SECOND,
        fault,
        target: target.to_owned(),
    }
}

/// The rules that a history breaks which has these events and is whole otherwise.
fn broken(events: &[&[Event]]) -> Vec<Rule> {
    rules(events, false)
}

fn rules(events: &[&[Event]], cluster: bool) -> Vec<Rule> {
    let frame = [
        Event::Began {
            at: 0,
            seed: 1,
            seconds: 60,
            jobs_per_second: 1,
            faults: Vec::new(),
            cluster,
        },
        Event::LoadEnded { at: 60 * SECOND },
        Event::Left {
            subjects: "jobs.durable.>".to_owned(),
            messages: 0,
        },
    ];
    let all = [&[&frame[..]], events].concat().concat();
    check(&all).violations.iter().map(|it| it.rule).collect()
}

#[test]
fn a_job_that_runs_once_and_succeeds_breaks_nothing() {
    let job = Job::of(Kind::Quick);
    let run = job.runs("a", 2, 3, Done);
    let end = job.ends(Succeeded, 3);
    assert_eq!(broken(&[&job.submitted(), &run, &end]), []);
}

#[test]
fn an_acknowledged_job_without_an_end_is_lost_or_stuck_and_another_one_may_be_missing() {
    let job = Job::of(Kind::Quick);
    let run = job.runs("a", 2, 3, Done);
    assert_eq!(broken(&[&job.submitted(), &run]), [Rule::Lost]);
    let found = |found: &str| Event::Unfinished {
        id: job.id,
        found: found.to_owned(),
    };
    assert_eq!(broken(&[&job.submitted(), &[found("")]]), [Rule::Lost]);
    assert_eq!(
        broken(&[&job.submitted(), &[found("queued")]]),
        [Rule::Stuck]
    );
    let [submitted, _] = job.submitted();
    assert_eq!(broken(&[&[submitted]]), []);
}

#[test]
fn an_end_that_changes_or_vanishes_is_contradicted() {
    let job = Job::of(Kind::Quick);
    let run = job.runs("a", 2, 3, Done);
    let first = job.record(1, Succeeded, 3);
    for other in [job.record(2, Dead, 3), job.record(2, Succeeded, 4)] {
        let records = [first.clone(), other];
        assert_eq!(
            broken(&[&job.submitted(), &run, &records]),
            [Rule::Contradicted]
        );
    }
    assert_eq!(
        broken(&[&job.submitted(), &run, &[first]]),
        [Rule::Contradicted]
    );
}

#[test]
fn an_end_that_handler_and_options_do_not_allow_is_wrong() {
    let good = Job::of(Kind::Quick);
    let run = good.runs("a", 2, 3, Done);
    for state in [Dead, Cancelled, Expired] {
        let end = good.ends(state, 3);
        assert_eq!(
            broken(&[&good.submitted(), &run, &end]),
            [Rule::WrongEnd],
            "{state}"
        );
    }
    let bad = Job::of(Kind::Fail);
    let run = bad.runs("a", 2, 3, Failed);
    assert_eq!(broken(&[&bad.submitted(), &run, &bad.ends(Dead, 3)]), []);
    let end = bad.ends(Succeeded, 3);
    let both = [Rule::WrongEnd, Rule::SucceededWithoutRun];
    assert_eq!(broken(&[&bad.submitted(), &run, &end]), both);

    let mut late = Job::of(Kind::Quick);
    late.submission.deadline = Some(4 * SECOND);
    assert_eq!(broken(&[&late.submitted(), &late.ends(Expired, 5)]), []);
    let early = late.ends(Expired, 3);
    assert_eq!(broken(&[&late.submitted(), &early]), [Rule::WrongEnd]);
}

#[test]
fn a_job_that_succeeded_has_a_run_that_did() {
    let job = Job::of(Kind::Quick);
    let end = job.ends(Succeeded, 3);
    let wrong = [Rule::SucceededWithoutRun];
    assert_eq!(broken(&[&job.submitted(), &end]), wrong);
    assert_eq!(
        broken(&[&job.submitted(), &[job.begins("a", 2)], &end]),
        wrong
    );
}

#[test]
fn a_job_does_not_start_and_succeed_long_after_its_cancellation_was_acknowledged() {
    let job = Job::of(Kind::Quick);
    let cancelled = |at: Micros| {
        let (at, id) = (at * SECOND, job.id);
        [
            Event::CancelRequested { at, id },
            Event::CancelAcknowledged { at, id },
        ]
    };
    assert_eq!(
        broken(&[&job.submitted(), &cancelled(2), &job.ends(Cancelled, 3)]),
        []
    );
    let run = job.runs("a", 30, 31, Done);
    let end = job.ends(Succeeded, 31);
    // It had succeeded, or was about to.
    for at in [25, 32] {
        assert_eq!(broken(&[&job.submitted(), &cancelled(at), &run, &end]), []);
    }
    let wrong = [Rule::CancelledButSucceeded];
    assert_eq!(
        broken(&[&job.submitted(), &cancelled(2), &run, &end]),
        wrong
    );
    // While much is broken, a request may wait.
    let down = [fault(Fault::KillServer, "nats-0", 3, 9)];
    assert_eq!(
        broken(&[&job.submitted(), &cancelled(2), &run, &end, &down]),
        []
    );
}

#[test]
fn a_run_beyond_the_first_follows_a_failure_or_a_fault_on_its_way() {
    let job = Job::of(Kind::Flaky);
    let lost = job.runs("a", 2, 3, Done);
    let again = job.runs("b", 20, 21, Done);
    let end = job.ends(Succeeded, 21);
    let with =
        |first: &[Event], more: &[Event]| broken(&[&job.submitted(), first, &again, &end, more]);
    assert_eq!(with(&lost, &[]), [Rule::UnexplainedRun]);
    assert_eq!(with(&[job.begins("a", 2)], &[]), [Rule::UnexplainedRun]);
    assert_eq!(with(&job.runs("a", 2, 3, Failed), &[]), []);
    // One failure explains one more run.
    let third = job.runs("c", 20, 21, Done);
    assert_eq!(
        with(&job.runs("a", 2, 3, Failed), &third),
        [Rule::UnexplainedRun]
    );

    for explaining in [
        fault(Fault::KillConsumer, "a", 3, 4),
        fault(Fault::PauseConsumer, "b", 1, 19),
        fault(Fault::PauseServer, "nats-0", 4, 5),
        fault(Fault::DeleteConsumer, "JOBS chaos=flaky", 5, 5),
    ] {
        assert_eq!(
            with(&lost, std::slice::from_ref(&explaining)),
            [],
            "{explaining:?}"
        );
    }
    for other in [
        fault(Fault::KillConsumer, "c", 3, 4),
        fault(Fault::KillConsumer, "a", 22, 23),
        fault(Fault::KillGateway, "gateway", 3, 4),
        // Neither is behind the proxy.
        fault(Fault::Cut, "proxy", 3, 4),
    ] {
        let told = with(&lost, std::slice::from_ref(&other));
        assert_eq!(told, [Rule::UnexplainedRun], "{other:?}");
    }
    let behind = job.runs("a-proxied", 2, 3, Done);
    assert_eq!(with(&behind, &[fault(Fault::Cut, "proxy", 3, 4)]), []);
}

#[test]
fn no_run_begins_after_the_end_unless_its_consumer_had_seen_the_job_before() {
    let job = Job::of(Kind::Quick);
    let run = job.runs("a", 2, 3, Done);
    let end = job.ends(Succeeded, 3);
    let again = job.runs("b", 20, 21, Done);
    let with =
        |faults: &[Event], cluster| rules(&[&job.submitted(), &run, &end, &again, faults], cluster);
    let wrong = [Rule::RanAfterItsEnd];
    assert_eq!(
        with(&[fault(Fault::KillServer, "nats-0", 2, 4)], false),
        wrong
    );
    assert_eq!(with(&[fault(Fault::PauseConsumer, "b", 1, 19)], false), []);
    assert_eq!(with(&[fault(Fault::StepDown, "JOBS", 4, 5)], true), []);
}

#[test]
fn no_run_begins_before_its_time_or_after_its_deadline() {
    let mut job = Job::of(Kind::Quick);
    job.submission.run_at = Some(5 * SECOND);
    job.submission.deadline = Some(8 * SECOND);
    for (from, expected) in [
        (4, &[Rule::Early][..]),
        (5, &[]),
        (9, &[]),
        (14, &[Rule::AfterDeadline]),
    ] {
        let run = job.runs("a", from, from + 1, Done);
        let end = job.ends(Succeeded, from + 1);
        assert_eq!(broken(&[&job.submitted(), &run, &end]), expected, "{from}");
    }
    let run = job.runs("a", 14, 15, Done);
    let end = job.ends(Succeeded, 15);
    let paused = [fault(Fault::PauseConsumer, "a", 7, 14)];
    assert_eq!(broken(&[&job.submitted(), &run, &end, &paused]), []);
}

#[test]
fn each_tick_has_one_job_and_each_job_of_a_schedule_one_tick() {
    let job = Job::of(Kind::Tick);
    let tick = [Event::Tick {
        due: 2 * SECOND,
        id: job.id,
        schedule: "interval".to_owned(),
    }];
    let run = job.runs("a", 2, 3, Done);
    let end = job.ends(Succeeded, 3);
    assert_eq!(broken(&[&tick, &run, &end]), []);
    assert_eq!(broken(&[&tick]), [Rule::TickWithoutJob]);
    assert_eq!(broken(&[&tick, &end]), [Rule::SucceededWithoutRun]);
    assert_eq!(broken(&[&run]), [Rule::JobWithoutTick]);
    let early = job.runs("a", 1, 3, Done);
    assert_eq!(broken(&[&tick, &early, &end]), [Rule::Early]);
    let stranger = Job::of(Kind::Quick);
    assert_eq!(broken(&[&stranger.runs("a", 1, 2, Done)]), [Rule::Unknown]);
}

#[test]
fn a_key_is_held_by_one_job_at_a_time() {
    let key = |until: Micros| {
        let mut job = Job::of(Kind::Quick);
        job.submission.key = Some("a".to_owned());
        let run = job.runs("a", until - 1, until, Done);
        let end = job.ends(Succeeded, until);
        (job, [run, end].concat())
    };
    let (first, its) = key(5);
    let (second, others) = key(9);
    let [submitted, _] = second.submitted();
    for (seconds, expected) in [(5, &[][..]), (4, &[Rule::KeyHeldTwice])] {
        let (at, id) = (seconds * SECOND, second.id);
        let later = [submitted.clone(), Event::Acknowledged { at, id }];
        assert_eq!(
            broken(&[&first.submitted(), &its, &later, &others]),
            expected
        );
    }
}

#[test]
fn queues_are_empty_and_services_well_in_the_end_and_a_history_is_whole() {
    let left = [Event::Left {
        subjects: "jobs.later.*".to_owned(),
        messages: 1,
    }];
    assert_eq!(broken(&[&left]), [Rule::QueueNotEmpty]);
    let failed = [Event::ServiceFailed {
        service: "gateway".to_owned(),
        why: "it ended by itself".to_owned(),
    }];
    assert_eq!(broken(&[&failed]), [Rule::ServiceFailed]);
    let violations = check(&[]).violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].rule, Rule::Incomplete);
}

#[test]
fn people_read_what_was_counted_and_what_was_violated() {
    let job = Job::of(Kind::Flaky);
    let run = job.runs("a", 2, 3, Done);
    let again = job.runs("b", 4, 6, Done);
    let end = job.ends(Succeeded, 6);
    let other = Job::of(Kind::Quick);
    let killed = [fault(Fault::KillConsumer, "a", 3, 4)];
    let load = [Event::LoadEnded { at: 10 * SECOND }];
    let all = [
        &job.submitted()[..],
        &run,
        &again,
        &end,
        &other.submitted(),
        &killed,
        &load,
    ];
    let text = check(&all.concat()).to_string();
    for line in [
        "acknowledged   2 jobs: client 2, schedules 0",
        "ends           succeeded 1",
        "faults         1: kill-consumer 1",
        "lost           1",
        "runs           2, of which repeated: 1 explained by kill-consumer 1, 0 unexplained",
        "longest stall  5.00 s",
        "violations     2",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert!(
        text.contains(&format!("  lost {}: no runs", other.id)),
        "{text}"
    );
}
