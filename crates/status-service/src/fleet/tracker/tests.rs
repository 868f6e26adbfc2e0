use proptest::prelude::*;

use common::RunCounts;

use super::*;
use crate::asking::{Ignored, KindRuns};

const GONE_AFTER: Duration = Duration::from_secs(30);

/// A fleet and the clock of its rounds.
struct Rounds {
    fleet: FleetTracker,
    now: Instant,
}

impl Rounds {
    fn new() -> Self {
        Self {
            fleet: FleetTracker::new(GONE_AFTER),
            now: Instant::now(),
        }
    }

    /// One round five seconds after the one before.
    fn next(&mut self, answers: &[StatusAnswer]) -> RoundChanges {
        self.round(answers, RoundEnd::Complete, false)
    }

    fn settling(&mut self, answers: &[StatusAnswer]) -> RoundChanges {
        self.round(answers, RoundEnd::Complete, true)
    }

    fn round(&mut self, answers: &[StatusAnswer], end: RoundEnd, settling: bool) -> RoundChanges {
        self.now += Duration::from_secs(5);
        let round = Round {
            asked_at: self.now,
            answers: answers.to_vec(),
            late: Vec::new(),
            end,
            ignored: Ignored::default(),
        };
        self.fleet.add_round(&round, settling)
    }

    fn add_late_answer(&mut self, answer: &StatusAnswer) {
        let a_second_later = self.now + Duration::from_secs(1);
        self.fleet.add_late_answer(answer, a_second_later);
    }
}

/// A consumer that started with, or after, the first round.
fn answer(consumer: &str, processed: u64) -> StatusAnswer {
    StatusAnswer {
        id: InstanceId {
            consumer: consumer.to_owned(),
            started_at: "2026-01-31T09:30:00Z".parse().unwrap(),
        },
        host: format!("host-of-{consumer}"),
        version: "0.1.0".to_owned(),
        uptime: Duration::from_secs(1),
        state: ConsumerState::Running,
        concurrency: 4,
        in_flight: 2,
        waiting: 3,
        dropped: 0,
        counts: Counts {
            processed,
            succeeded: processed,
            ..Counts::default()
        },
        kinds: Vec::new(),
        unserved_kinds: Vec::new(),
        took: Duration::from_millis(2),
    }
}

/// The same, but it tells how long its jobs of some kinds ran: so many runs of ten milliseconds.
fn ran(consumer: &str, kinds: &[(&str, u64)]) -> StatusAnswer {
    let kinds = kinds.iter().map(|(kind, runs)| {
        let mut run_counts = RunCounts::default();
        run_counts.add(10.0, *runs);
        KindRuns {
            kind: (*kind).to_owned(),
            counts: Counts::default(),
            run_ms: RunTime::default(),
            run_counts,
        }
    });
    StatusAnswer {
        kinds: kinds.collect(),
        ..answer(consumer, 0)
    }
}

/// Another instance of the same consumer; the larger `instance`, the later it started.
fn restarted(answer: &StatusAnswer, instance: u32) -> StatusAnswer {
    let mut answer = answer.clone();
    answer.id.started_at = format!("2026-01-31T09:31:{instance:02}Z").parse().unwrap();
    answer
}

fn draining(mut answer: StatusAnswer) -> StatusAnswer {
    answer.state = ConsumerState::Draining;
    answer
}

fn changes(changed: &RoundChanges) -> Vec<(&str, Change)> {
    let events = changed.events.iter();
    events
        .map(|event| (event.id.consumer.as_str(), event.change.clone()))
        .collect()
}

fn joined(consumer: &str) -> (&str, Change) {
    let version = "0.1.0".to_owned();
    (consumer, Change::Joined { version })
}

#[test]
fn runs_add_up_over_all_consumers_and_never_go_down() {
    let mut rounds = Rounds::new();
    let mut after = |answers: &[StatusAnswer]| {
        rounds.next(answers);
        let kinds = &rounds.fleet.last_round().kinds;
        let told = kinds.iter().map(|kind| {
            let counts = kind.run_counts.as_ref();
            (kind.kind.clone(), counts.map(RunCounts::count))
        });
        told.collect::<Vec<_>>()
    };
    let of = |kind: &str, runs: Option<u64>| (kind.to_owned(), runs);
    // When the first round finds them, it is not known when these ran.
    assert_eq!(after(&[ran("a", &[("echo", 7)])]), [of("echo", Some(0))]);
    assert_eq!(after(&[ran("a", &[("echo", 9)])]), [of("echo", Some(2))]);
    // One that started since the last round; a kind that a known consumer had not run before.
    let (a, b) = (
        ran("a", &[("echo", 9), ("mail", 1)]),
        ran("b", &[("echo", 3)]),
    );
    let mut both = after(&[a.clone(), b.clone()]);
    both.sort();
    assert_eq!(both, [of("echo", Some(5)), of("mail", Some(1))]);
    // One that has worked for long, and was not found before.
    let mut old = ran("c", &[("echo", 1_000)]);
    old.uptime = Duration::from_hours(1);
    assert!(after(&[a, b.clone(), old.clone()]).contains(&of("echo", Some(5))));
    // Consumers restart and leave.
    let again = restarted(&ran("a", &[("echo", 1)]), 0);
    assert!(after(&[again.clone(), b, old]).contains(&of("echo", Some(6))));
    assert_eq!(after(&[again]), [of("echo", Some(6))]);
    // One of an older version does not tell its runs.
    assert_eq!(after(&[ran("d", &[("old", 0)])]), [of("old", None)]);
}

#[test]
fn the_numbers_of_all_that_answer_are_added() {
    let mut rounds = Rounds::new();
    let mut full = answer("b", 20);
    full.state = ConsumerState::Saturated;
    let changed = rounds.next(&[answer("a", 10), full, draining(answer("c", 30))]);
    assert_eq!(changes(&changed), [joined("a"), joined("b"), joined("c")]);
    let summary = changed.summary;
    assert_eq!((summary.consumers, summary.missing), (3, 0));
    assert_eq!(
        (summary.running, summary.saturated, summary.draining),
        (1, 1, 1)
    );
    assert_eq!((summary.in_flight, summary.waiting), (6, 9));
    assert_eq!(summary.totals.processed, 60);
    assert_eq!(
        summary.progress, None,
        "there is no round to compare the first with"
    );
    assert_eq!(summary.round_trip, Duration::from_millis(2));
}

#[test]
fn a_silent_consumer_is_missing_once_then_gone_and_its_counts_stay() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), answer("b", 20)]);
    let changed = rounds.next(&[answer("a", 11)]);
    let missing = Change::Missing {
        silent: Duration::from_secs(5),
        in_flight: 2,
        waiting: 3,
    };
    assert_eq!(changes(&changed), [("b", missing)]);
    assert_eq!(changed.events[0].host, "host-of-b");
    assert_eq!((changed.summary.consumers, changed.summary.missing), (1, 1));
    for _ in 0..4 {
        let changed = rounds.next(&[answer("a", 11)]);
        assert_eq!(changes(&changed), []);
        assert_eq!(changed.summary.missing, 1);
    }
    let changed = rounds.next(&[answer("a", 11)]);
    let gone = Change::Gone {
        silent: GONE_AFTER,
        processed: 20,
    };
    assert_eq!(changes(&changed), [("b", gone)]);
    assert_eq!(changed.summary.missing, 0);
    assert_eq!(changed.summary.totals.processed, 31);
    assert_eq!(changes(&rounds.next(&[answer("a", 12)])), []);
}

#[test]
fn a_missing_consumer_is_not_awaited_until_it_answers_again() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), answer("b", 20)]);
    assert_eq!(rounds.fleet.awaited().len(), 2);
    rounds.next(&[answer("a", 10)]);
    assert_eq!(
        rounds.fleet.awaited(),
        [answer("a", 0).id].into(),
        "one that is missing must not make every round last as long as it can"
    );
    let changed = rounds.next(&[answer("a", 10), answer("b", 25)]);
    assert_eq!(changes(&changed), [("b", Change::Back)]);
    assert_eq!(changed.summary.totals.processed, 35);
    assert_eq!(rounds.fleet.awaited().len(), 2);
}

#[test]
fn an_instance_that_was_gone_and_returns_is_not_counted_twice() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 100)]);
    for _ in 0..10 {
        rounds.next(&[]);
    }
    assert_eq!(rounds.fleet.members.len(), 0, "it is gone");
    let changed = rounds.next(&[answer("a", 130)]);
    assert_eq!(changes(&changed), [("a", Change::Back)]);
    assert_eq!(changed.summary.totals.processed, 130);
    assert_eq!(changed.summary.progress.unwrap().processed, 30);
    for _ in 0..10 {
        rounds.next(&[]);
    }
    assert_eq!(rounds.fleet.totals().processed, 130);
}

#[test]
fn a_consumer_that_announced_its_stop_has_left_when_it_is_silent() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), draining(answer("b", 20))]);
    let changed = rounds.next(&[answer("a", 10)]);
    assert_eq!(changes(&changed), [("b", Change::Left { processed: 20 })]);
    assert_eq!(changed.summary.missing, 0);
    assert_eq!(changed.summary.totals.processed, 30);
}

#[test]
fn a_restart_is_one_event_and_both_instances_count() {
    let mut rounds = Rounds::new();
    let first = answer("a", 10);
    rounds.next(std::slice::from_ref(&first));
    let changed = rounds.next(&[restarted(&answer("a", 1), 1)]);
    let change = Change::Restarted {
        in_flight: 2,
        waiting: 3,
        announced: false,
    };
    assert_eq!(changes(&changed), [("a", change)]);
    assert_eq!(changed.events[0].id, first.id, "the old instance is over");
    assert_eq!((changed.summary.consumers, changed.summary.missing), (1, 0));
    assert_eq!(changed.summary.totals.processed, 11);
}

#[test]
fn two_consumers_of_the_same_name_both_count() {
    let mut rounds = Rounds::new();
    let twin = restarted(&answer("a", 5), 1);
    rounds.next(&[answer("a", 10), twin.clone()]);
    let changed = rounds.next(&[answer("a", 11), twin]);
    assert_eq!(changes(&changed), []);
    assert_eq!(changed.summary.totals.processed, 16);
}

#[test]
fn smaller_numbers_than_before_change_nothing() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10)]);
    let changed = rounds.next(&[answer("a", 3)]);
    assert_eq!(changed.summary.totals.processed, 10);
    assert_eq!(changed.summary.progress.unwrap().processed, 0);
    let changed = rounds.next(&[answer("a", 12)]);
    assert_eq!(changed.summary.progress.unwrap().processed, 2);
}

#[test]
fn no_consumer_is_missing_while_the_connection_settles_or_after_a_truncated_round() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10)]);
    for _ in 0..10 {
        let changed = rounds.settling(&[]);
        assert_eq!(changes(&changed), []);
        assert_eq!(changed.answering, None);
        assert_eq!(changed.summary.missing, 1, "it is counted though");
    }
    let changed = rounds.round(&[answer("b", 10)], RoundEnd::Truncated, false);
    assert_eq!(changes(&changed), [joined("b")]);
    let changed = rounds.next(&[answer("b", 10)]);
    assert!(
        matches!(changes(&changed)[..], [("a", Change::Missing { silent, .. })] if silent.as_secs() == 60)
    );
}

#[test]
fn late_answers_are_reported_once_and_their_consumer_is_never_gone() {
    let mut rounds = Rounds::new();
    rounds.add_late_answer(&answer("a", 10));
    assert!(
        rounds.fleet.awaited().contains(&answer("a", 0).id),
        "the next round waits for it"
    );
    let mut reported = Vec::new();
    for processed in 11..30 {
        let changed = rounds.round(&[], RoundEnd::TimedOut, false);
        reported.extend(changed.events.into_iter().map(|event| event.change));
        rounds.add_late_answer(&answer("a", processed));
        assert_eq!(rounds.fleet.awaited().len(), 1);
    }
    assert!(
        matches!(reported[..], [Change::Missing { .. }, Change::TooLate]),
        "{reported:?}"
    );
    assert_eq!(rounds.fleet.totals().processed, 29);
    let changed = rounds.next(&[answer("a", 30)]);
    assert_eq!(changes(&changed), [("a", Change::Back)]);
}

#[test]
fn a_consumer_found_by_a_late_answer_joins_with_the_next_round() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("b", 0)]);
    rounds.add_late_answer(&answer("a", 10));
    let changed = rounds.next(&[answer("a", 12), answer("b", 0)]);
    assert_eq!(changes(&changed), [joined("a")]);
    assert_eq!(changed.summary.progress.unwrap().processed, 12);
}

#[test]
fn the_last_answer_of_a_stopping_consumer_counts_and_the_next_round_does_not_wait_for_it() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), answer("b", 20)]);
    rounds.add_late_answer(&draining(answer("b", 27)));
    assert_eq!(rounds.fleet.awaited(), [answer("a", 0).id].into());
    let changed = rounds.next(&[answer("a", 10)]);
    assert_eq!(changes(&changed), [("b", Change::Left { processed: 27 })]);
    assert_eq!(changed.summary.totals.processed, 37);
}

#[test]
fn work_done_before_a_consumer_was_found_is_in_the_totals_only() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10)]);
    let mut old = answer("b", 1_000_000);
    old.uptime = Duration::from_hours(1);
    let mut new = answer("c", 7);
    new.uptime = Duration::from_secs(4);
    let changed = rounds.next(&[answer("a", 15), old.clone(), new]);
    assert_eq!(changed.summary.totals.processed, 1_000_022);
    let since = changed.summary.progress.unwrap();
    assert_eq!(
        (since.processed, since.elapsed),
        (12, Duration::from_secs(5))
    );
    old.counts.processed += 3;
    let changed = rounds.next(&[answer("a", 15), old]);
    assert_eq!(changed.summary.progress.unwrap().processed, 3);
}

#[test]
fn the_spread_compares_consumers_that_answered_both_times() {
    let mut rounds = Rounds::new();
    let changed = rounds.next(&[answer("a", 0), answer("b", 0)]);
    assert_eq!(changed.summary.spread, None, "nothing to compare with");
    let changed = rounds.next(&[answer("a", 30), answer("b", 70), answer("new", 500)]);
    let spread = changed.summary.spread.unwrap();
    assert_eq!((spread.consumers, spread.min, spread.max), (2, 0.3, 0.7));
    assert_eq!(spread.to_string(), "30.0%..70.0%");
    let idle = [answer("a", 30), answer("b", 70), answer("new", 500)];
    assert_eq!(rounds.next(&idle).summary.spread, None, "nothing was done");
    let alone = rounds.next(&[answer("a", 40)]).summary;
    assert_eq!(alone.spread, None, "one consumer has it all");
    let back = rounds.next(&[answer("a", 50), answer("b", 170)]).summary;
    assert_eq!(
        back.spread, None,
        "what b did in two rounds is not compared with what a did in one"
    );
}

#[test]
fn shares_of_many_consumers_have_enough_digits() {
    let spread = |consumers| Spread {
        consumers,
        min: 0.9 / consumers as f64,
        max: 1.1 / consumers as f64,
    };
    assert_eq!(spread(4).to_string(), "22.5%..27.5%");
    assert_eq!(spread(1_000).to_string(), "0.090%..0.110%");
    assert_eq!(spread(10_000).to_string(), "0.0090%..0.0110%");
}

#[test]
fn a_round_is_news_only_if_a_job_has_ended_or_the_fleet_is_another() {
    let mut rounds = Rounds::new();
    let mut news = |answers: &[StatusAnswer]| rounds.next(answers).news;
    let (idle, mut slow) = (answer("a", 10), answer("a", 10));
    assert!(news(std::slice::from_ref(&idle)), "the first one");
    slow.took = Duration::from_millis(900);
    assert!(!news(&[slow]), "only the time that it took is another");
    assert!(news(&[answer("a", 11)]), "a job has ended");
    assert!(!news(&[answer("a", 11)]));
    let mut waiting = answer("a", 11);
    waiting.waiting += 1;
    assert!(news(&[waiting.clone()]), "a job waits");
    assert!(news(&[waiting.clone(), answer("b", 0)]), "a consumer came");
    assert!(news(&[waiting]), "and is missing");
}

#[test]
fn that_no_consumer_answers_is_reported_once_and_that_they_answer_again_once() {
    let mut rounds = Rounds::new();
    let answering = |changes: RoundChanges| changes.answering;
    // At the start it is no wonder; after a while it is.
    assert_eq!(answering(rounds.next(&[])), Some(Answering::NotYet));
    assert_eq!(answering(rounds.next(&[])), None);
    assert_eq!(
        answering(rounds.next(&[answer("a", 1)])),
        Some(Answering::Yes)
    );
    assert_eq!(answering(rounds.next(&[answer("a", 1)])), None);
    assert_eq!(answering(rounds.next(&[])), Some(Answering::No));
    assert_eq!(answering(rounds.next(&[])), None);
    assert_eq!(
        answering(rounds.next(&[answer("a", 1)])),
        Some(Answering::Again)
    );
    let mut rounds = Rounds::new();
    let mut reports = (0..20).map(|_| answering(rounds.next(&[])));
    assert_eq!(reports.next(), Some(Some(Answering::NotYet)));
    let later: Vec<_> = reports.flatten().collect();
    assert_eq!(later, [Answering::No], "once it has taken too long");
    let mut rounds = Rounds::new();
    assert_eq!(
        answering(rounds.next(&[answer("a", 1)])),
        None,
        "it was never reported that none does"
    );
}

#[test]
fn consumers_without_an_answer_in_the_last_round_are_missing_in_view_and_summary() {
    let started_at = "2026-01-31T09:30:00Z".parse().unwrap();
    let interval = Duration::from_secs(5);
    let about = common::Fleet::new("status-1".to_owned(), started_at, interval);
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 1), answer("b", 1)]);
    let only_a = [answer("a", 1)];
    let rounds_without_b: [fn(&mut Rounds, &[StatusAnswer]) -> RoundChanges; 3] = [
        // It is not reported as missing yet, ...
        Rounds::settling,
        |rounds, answers| rounds.round(answers, RoundEnd::Truncated, false),
        // ... and now it is.
        Rounds::next,
    ];
    for round in rounds_without_b {
        let summary = round(&mut rounds, &only_a).summary;
        let view = rounds.fleet.view(&about, (rounds.now, about.started_at));
        assert_eq!((view.answering, view.missing), (1, 1));
        assert_eq!((summary.consumers, summary.missing), (1, 1));
        assert_eq!(
            (view.in_flight, view.waiting),
            (summary.in_flight, summary.waiting)
        );
        let presences: Vec<_> = view.consumers.iter().map(|it| it.presence).collect();
        assert_eq!(
            presences,
            [common::Presence::Present, common::Presence::Missing]
        );
    }
}

#[test]
fn dropped_messages_are_reported_when_there_are_more() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 1)]);
    let mut lossy = answer("a", 1);
    for (dropped, reported) in [(0, None), (5, Some(5)), (5, None), (3, None), (9, Some(4))] {
        lossy.dropped = dropped;
        let changed = rounds.next(std::slice::from_ref(&lossy));
        let expected = reported.map(|messages| ("a", Change::Dropped { messages }));
        assert_eq!(changes(&changed), expected.into_iter().collect::<Vec<_>>());
    }
    for _ in 0..10 {
        rounds.next(&[]);
    }
    let changed = rounds.next(&[lossy]);
    assert_eq!(
        changes(&changed),
        [("a", Change::Back)],
        "these were reported before it was gone"
    );
}

#[test]
fn made_up_names_do_not_fill_the_memory() {
    let mut rounds = Rounds::new();
    for round in 0..4 {
        let answers: Vec<_> = (0..MAX_SILENT)
            .map(|n| answer(&format!("fake-{round}-{n}"), 1))
            .collect();
        rounds.settling(&answers);
        assert!(rounds.fleet.members.len() <= 2 * MAX_SILENT);
    }
    assert_eq!(rounds.fleet.totals().processed, 4 * MAX_SILENT as u64);
}

/// One round of the property below: which of twelve instances answer in time, which late.
#[derive(Clone, Debug)]
struct Step {
    seconds: u64,
    settling: bool,
    cut: bool,
    in_time: Vec<(usize, StatusAnswer)>,
    late: Vec<(usize, StatusAnswer)>,
}

fn any_answer() -> impl Strategy<Value = (usize, StatusAnswer)> {
    let state = prop_oneof![
        Just(ConsumerState::Running),
        Just(ConsumerState::Saturated),
        Just(ConsumerState::Draining),
    ];
    let count = || prop_oneof![0u64..50, 0u64..=1 << 53];
    (0usize..4, 0u32..3, state, count(), count(), 0u64..100).prop_map(
        |(name, instance, state, processed, failed, uptime)| {
            let mut answer = restarted(&answer(["a", "b", "c", "d"][name], processed), instance);
            answer.state = state;
            answer.counts.failed = failed;
            answer.uptime = Duration::from_secs(uptime);
            (name * 3 + instance as usize, answer)
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let answers = || prop::collection::vec(any_answer(), 0..6);
    (
        0u64..50,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        answers(),
        prop::collection::vec(any_answer(), 0..2),
    )
        .prop_map(|(seconds, settling, cut, mut in_time, late)| {
            // A round holds one answer of each.
            in_time.sort_by_key(|(instance, _)| *instance);
            in_time.dedup_by_key(|(instance, _)| *instance);
            Step {
                seconds,
                settling,
                cut,
                in_time,
                late,
            }
        })
}

proptest! {
    /// For any sequence of answers in time or late, stops, restarts and returns.
    #[test]
    fn totals_never_go_down_and_hold_the_most_of_each_instance_once(
        steps in prop::collection::vec(any_step(), 1..40)
    ) {
        let mut fleet = FleetTracker::new(GONE_AFTER);
        let mut now = Instant::now();
        let mut most = [Counts::default(); 12];
        let mut before = Counts::default();
        let mut missing = BTreeSet::new();
        for step in steps {
            now += Duration::from_secs(step.seconds);
            for (instance, answer) in step.in_time.iter().chain(&step.late) {
                most[*instance] = larger(&most[*instance], &answer.counts);
            }
            let answers = |answers: Vec<(usize, StatusAnswer)>| -> Vec<_> {
                answers.into_iter().map(|(_, answer)| answer).collect()
            };
            let round = Round {
                asked_at: now,
                answers: answers(step.in_time),
                late: answers(step.late),
                end: if step.cut { RoundEnd::Truncated } else { RoundEnd::Complete },
                ignored: Ignored::default(),
            };
            let changed = fleet.add_round(&round, step.settling);

            let totals = fleet.totals();
            prop_assert_eq!(changed.summary.totals, totals);
            prop_assert_eq!(difference(&before, &totals), Counts::default(), "a total went down");
            let mut expected = Counts::default();
            for most in &most {
                expected += *most;
            }
            prop_assert_eq!(totals, expected);
            before = totals;

            prop_assert_eq!(changed.summary.consumers, round.answers.len());
            for ConsumerEvent { id, change, .. } in changed.events {
                match change {
                    Change::Missing { .. } => {
                        prop_assert!(missing.insert(id), "reported missing twice");
                    }
                    Change::Back | Change::Gone { .. } | Change::Left { .. } | Change::Restarted { .. } => {
                        missing.remove(&id);
                    }
                    Change::Joined { .. } | Change::TooLate | Change::Dropped { .. } => {}
                }
            }
        }
    }
}
