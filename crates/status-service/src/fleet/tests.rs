use proptest::prelude::*;

use super::*;
use crate::Ignored;

const GONE_AFTER: Duration = Duration::from_secs(30);

/// A fleet and the clock of its rounds.
struct Rounds {
    fleet: Fleet,
    now: Instant,
}

impl Rounds {
    fn new() -> Self {
        Self {
            fleet: Fleet::new(GONE_AFTER),
            now: Instant::now(),
        }
    }

    /// One round five seconds after the one before.
    fn next(&mut self, answers: &[Answer]) -> News {
        self.round(answers, Ended::Complete, false)
    }

    fn settling(&mut self, answers: &[Answer]) -> News {
        self.round(answers, Ended::Complete, true)
    }

    fn round(&mut self, answers: &[Answer], ended: Ended, settling: bool) -> News {
        self.now += Duration::from_secs(5);
        let round = Round {
            asked_at: self.now,
            answers: answers.to_vec(),
            late: Vec::new(),
            ended,
            ignored: Ignored::default(),
        };
        self.fleet.absorb(&round, settling)
    }

    fn hear_late(&mut self, answer: &Answer) {
        let a_second_later = self.now + Duration::from_secs(1);
        self.fleet.hear_late(answer, a_second_later);
    }
}

/// A consumer that started with, or after, the first round.
fn answer(consumer: &str, processed: u64) -> Answer {
    Answer {
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

/// Another life of the same consumer, later the larger `life` is.
fn reborn(answer: &Answer, life: u32) -> Answer {
    let mut answer = answer.clone();
    answer.id.started_at = format!("2026-01-31T09:31:{life:02}Z").parse().unwrap();
    answer
}

fn draining(mut answer: Answer) -> Answer {
    answer.state = ConsumerState::Draining;
    answer
}

fn changes(news: &News) -> Vec<(&str, Change)> {
    let events = news.events.iter();
    events
        .map(|event| (event.id.consumer.as_str(), event.change.clone()))
        .collect()
}

fn joined(consumer: &str) -> (&str, Change) {
    let version = "0.1.0".to_owned();
    (consumer, Change::Joined { version })
}

#[test]
fn the_numbers_of_all_that_answer_are_added() {
    let mut rounds = Rounds::new();
    let mut full = answer("b", 20);
    full.state = ConsumerState::Saturated;
    let news = rounds.next(&[answer("a", 10), full, draining(answer("c", 30))]);
    assert_eq!(changes(&news), [joined("a"), joined("b"), joined("c")]);
    let summary = news.summary;
    assert_eq!((summary.consumers, summary.missing), (3, 0));
    assert_eq!(
        (summary.running, summary.saturated, summary.draining),
        (1, 1, 1)
    );
    assert_eq!((summary.in_flight, summary.waiting), (6, 9));
    assert_eq!(summary.totals.processed, 60);
    assert_eq!(
        summary.since, None,
        "there is no round to compare the first with"
    );
    assert_eq!(summary.round_trip, Duration::from_millis(2));
}

#[test]
fn a_silent_consumer_is_missing_once_then_gone_and_its_counts_stay() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), answer("b", 20)]);
    let news = rounds.next(&[answer("a", 11)]);
    let missing = Change::Missing {
        silent: Duration::from_secs(5),
        in_flight: 2,
        waiting: 3,
    };
    assert_eq!(changes(&news), [("b", missing)]);
    assert_eq!(news.events[0].host, "host-of-b");
    assert_eq!((news.summary.consumers, news.summary.missing), (1, 1));
    for _ in 0..4 {
        let news = rounds.next(&[answer("a", 11)]);
        assert_eq!(changes(&news), []);
        assert_eq!(news.summary.missing, 1);
    }
    let news = rounds.next(&[answer("a", 11)]);
    let gone = Change::Gone {
        silent: GONE_AFTER,
        processed: 20,
    };
    assert_eq!(changes(&news), [("b", gone)]);
    assert_eq!(news.summary.missing, 0);
    assert_eq!(news.summary.totals.processed, 31);
    assert_eq!(changes(&rounds.next(&[answer("a", 12)])), []);
}

#[test]
fn a_missing_consumer_is_not_waited_for_until_it_is_heard_again() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), answer("b", 20)]);
    assert_eq!(rounds.fleet.awaited().len(), 2);
    rounds.next(&[answer("a", 10)]);
    assert_eq!(
        rounds.fleet.awaited(),
        [answer("a", 0).id].into(),
        "one that is missing must not make every round last as long as it can"
    );
    let news = rounds.next(&[answer("a", 10), answer("b", 25)]);
    assert_eq!(changes(&news), [("b", Change::Back)]);
    assert_eq!(news.summary.totals.processed, 35);
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
    let news = rounds.next(&[answer("a", 130)]);
    assert_eq!(changes(&news), [("a", Change::Back)]);
    assert_eq!(news.summary.totals.processed, 130);
    assert_eq!(news.summary.since.unwrap().processed, 30);
    for _ in 0..10 {
        rounds.next(&[]);
    }
    assert_eq!(rounds.fleet.totals().processed, 130);
}

#[test]
fn a_consumer_that_said_it_would_stop_has_left_when_it_is_silent() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), draining(answer("b", 20))]);
    let news = rounds.next(&[answer("a", 10)]);
    assert_eq!(changes(&news), [("b", Change::Left { processed: 20 })]);
    assert_eq!(news.summary.missing, 0);
    assert_eq!(news.summary.totals.processed, 30);
}

#[test]
fn a_restart_is_told_in_one_line_and_both_lives_count() {
    let mut rounds = Rounds::new();
    let first = answer("a", 10);
    rounds.next(std::slice::from_ref(&first));
    let news = rounds.next(&[reborn(&answer("a", 1), 1)]);
    let restarted = Change::Restarted {
        in_flight: 2,
        waiting: 3,
        announced: false,
    };
    assert_eq!(changes(&news), [("a", restarted)]);
    assert_eq!(news.events[0].id, first.id, "the old life is over");
    assert_eq!((news.summary.consumers, news.summary.missing), (1, 0));
    assert_eq!(news.summary.totals.processed, 11);
}

#[test]
fn two_consumers_of_the_same_name_both_count() {
    let mut rounds = Rounds::new();
    let twin = reborn(&answer("a", 5), 1);
    rounds.next(&[answer("a", 10), twin.clone()]);
    let news = rounds.next(&[answer("a", 11), twin]);
    assert_eq!(changes(&news), []);
    assert_eq!(news.summary.totals.processed, 16);
}

#[test]
fn smaller_numbers_than_before_change_nothing() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10)]);
    let news = rounds.next(&[answer("a", 3)]);
    assert_eq!(news.summary.totals.processed, 10);
    assert_eq!(news.summary.since.unwrap().processed, 0);
    let news = rounds.next(&[answer("a", 12)]);
    assert_eq!(news.summary.since.unwrap().processed, 2);
}

#[test]
fn nobody_is_called_missing_while_the_connection_settles_nor_after_a_cut() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10)]);
    for _ in 0..10 {
        let news = rounds.settling(&[]);
        assert_eq!(changes(&news), []);
        assert_eq!(news.answering, None);
        assert_eq!(news.summary.missing, 1, "it is counted though");
    }
    let news = rounds.round(&[answer("b", 10)], Ended::Cut, false);
    assert_eq!(changes(&news), [joined("b")]);
    let news = rounds.next(&[answer("b", 10)]);
    assert!(
        matches!(changes(&news)[..], [("a", Change::Missing { silent, .. })] if silent.as_secs() == 60)
    );
}

#[test]
fn one_whose_answers_come_too_late_is_told_so_once_and_is_never_gone() {
    let mut rounds = Rounds::new();
    rounds.hear_late(&answer("a", 10));
    assert!(
        rounds.fleet.awaited().contains(&answer("a", 0).id),
        "the next round waits for it"
    );
    let mut told = Vec::new();
    for processed in 11..30 {
        let news = rounds.round(&[], Ended::TimedOut, false);
        told.extend(news.events.into_iter().map(|event| event.change));
        rounds.hear_late(&answer("a", processed));
        assert_eq!(rounds.fleet.awaited().len(), 1);
    }
    assert!(
        matches!(told[..], [Change::Missing { .. }, Change::TooLate]),
        "{told:?}"
    );
    assert_eq!(rounds.fleet.totals().processed, 29);
    let news = rounds.next(&[answer("a", 30)]);
    assert_eq!(changes(&news), [("a", Change::Back)]);
}

#[test]
fn one_that_is_found_by_a_late_answer_joins_with_the_next_round() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("b", 0)]);
    rounds.hear_late(&answer("a", 10));
    let news = rounds.next(&[answer("a", 12), answer("b", 0)]);
    assert_eq!(changes(&news), [joined("a")]);
    assert_eq!(news.summary.since.unwrap().processed, 12);
}

#[test]
fn the_last_word_of_a_consumer_that_stops_counts_and_it_is_not_waited_for() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10), answer("b", 20)]);
    rounds.hear_late(&draining(answer("b", 27)));
    assert_eq!(rounds.fleet.awaited(), [answer("a", 0).id].into());
    let news = rounds.next(&[answer("a", 10)]);
    assert_eq!(changes(&news), [("b", Change::Left { processed: 27 })]);
    assert_eq!(news.summary.totals.processed, 37);
}

#[test]
fn work_done_long_before_a_consumer_was_found_is_in_the_total_only() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 10)]);
    let mut old = answer("b", 1_000_000);
    old.uptime = Duration::from_hours(1);
    let mut new = answer("c", 7);
    new.uptime = Duration::from_secs(4);
    let news = rounds.next(&[answer("a", 15), old.clone(), new]);
    assert_eq!(news.summary.totals.processed, 1_000_022);
    let since = news.summary.since.unwrap();
    assert_eq!(
        (since.processed, since.elapsed),
        (12, Duration::from_secs(5))
    );
    old.counts.processed += 3;
    let news = rounds.next(&[answer("a", 15), old]);
    assert_eq!(news.summary.since.unwrap().processed, 3);
}

#[test]
fn the_spread_compares_consumers_that_answered_both_times() {
    let mut rounds = Rounds::new();
    let news = rounds.next(&[answer("a", 0), answer("b", 0)]);
    assert_eq!(news.summary.spread, None, "nothing to compare with");
    let news = rounds.next(&[answer("a", 30), answer("b", 70), answer("new", 500)]);
    let spread = news.summary.spread.unwrap();
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
fn shares_of_many_consumers_keep_their_figures() {
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
fn that_nobody_answers_is_told_once_and_that_they_are_back_once() {
    let mut rounds = Rounds::new();
    let answering = |news: News| news.answering;
    assert_eq!(answering(rounds.next(&[])), Some(false));
    assert_eq!(answering(rounds.next(&[])), None);
    assert_eq!(answering(rounds.next(&[answer("a", 1)])), Some(true));
    assert_eq!(answering(rounds.next(&[answer("a", 1)])), None);
    assert_eq!(answering(rounds.next(&[])), Some(false));
    let mut rounds = Rounds::new();
    assert_eq!(
        answering(rounds.next(&[answer("a", 1)])),
        None,
        "it was never said that nobody does"
    );
}

#[test]
fn whoever_was_silent_in_the_last_round_is_told_as_missing_as_the_summary_counts_it() {
    let started_at = "2026-01-31T09:30:00Z".parse().unwrap();
    let interval = Duration::from_secs(5);
    let about = common::Fleet::new("status-1".to_owned(), started_at, interval);
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 1), answer("b", 1)]);
    let only_a = [answer("a", 1)];
    let rounds_without_b: [fn(&mut Rounds, &[Answer]) -> News; 3] = [
        // Nobody is called missing yet, ...
        Rounds::settling,
        |rounds, answers| rounds.round(answers, Ended::Cut, false),
        // ... and now it is.
        Rounds::next,
    ];
    for round in rounds_without_b {
        let summary = round(&mut rounds, &only_a).summary;
        let told = rounds.fleet.told(&about, (rounds.now, about.started_at));
        assert_eq!((told.answering, told.missing), (1, 1));
        assert_eq!((summary.consumers, summary.missing), (1, 1));
        assert_eq!(
            (told.in_flight, told.waiting),
            (summary.in_flight, summary.waiting)
        );
        let presences: Vec<_> = told.consumers.iter().map(|it| it.presence).collect();
        assert_eq!(
            presences,
            [common::Presence::Present, common::Presence::Missing]
        );
    }
}

#[test]
fn messages_that_a_consumer_lost_are_told_when_there_are_more() {
    let mut rounds = Rounds::new();
    rounds.next(&[answer("a", 1)]);
    let mut lossy = answer("a", 1);
    for (dropped, told) in [(0, None), (5, Some(5)), (5, None), (3, None), (9, Some(4))] {
        lossy.dropped = dropped;
        let news = rounds.next(std::slice::from_ref(&lossy));
        let expected = told.map(|messages| ("a", Change::Dropped { messages }));
        assert_eq!(changes(&news), expected.into_iter().collect::<Vec<_>>());
    }
    for _ in 0..10 {
        rounds.next(&[]);
    }
    let news = rounds.next(&[lossy]);
    assert_eq!(
        changes(&news),
        [("a", Change::Back)],
        "that was told before it was gone"
    );
}

#[test]
fn names_that_are_made_up_do_not_fill_the_memory() {
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
    in_time: Vec<(usize, Answer)>,
    late: Vec<(usize, Answer)>,
}

fn any_answer() -> impl Strategy<Value = (usize, Answer)> {
    let state = prop_oneof![
        Just(ConsumerState::Running),
        Just(ConsumerState::Saturated),
        Just(ConsumerState::Draining),
    ];
    let count = || prop_oneof![0u64..50, 0u64..=1 << 53];
    (0usize..4, 0u32..3, state, count(), count(), 0u64..100).prop_map(
        |(name, life, state, processed, failed, uptime)| {
            let mut answer = reborn(&answer(["a", "b", "c", "d"][name], processed), life);
            answer.state = state;
            answer.counts.failed = failed;
            answer.uptime = Duration::from_secs(uptime);
            (name * 3 + life as usize, answer)
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
    /// Whatever is answered by whom, in time or late, and whoever leaves, restarts or returns.
    #[test]
    fn totals_never_go_down_and_hold_the_most_of_each_instance_once(
        steps in prop::collection::vec(any_step(), 1..40)
    ) {
        let mut fleet = Fleet::new(GONE_AFTER);
        let mut now = Instant::now();
        let mut most = [Counts::default(); 12];
        let mut before = Counts::default();
        let mut missing = BTreeSet::new();
        for step in steps {
            now += Duration::from_secs(step.seconds);
            for (instance, answer) in step.in_time.iter().chain(&step.late) {
                most[*instance] = larger(&most[*instance], &answer.counts);
            }
            let answers = |answers: Vec<(usize, Answer)>| -> Vec<_> {
                answers.into_iter().map(|(_, answer)| answer).collect()
            };
            let round = Round {
                asked_at: now,
                answers: answers(step.in_time),
                late: answers(step.late),
                ended: if step.cut { Ended::Cut } else { Ended::Complete },
                ignored: Ignored::default(),
            };
            let news = fleet.absorb(&round, step.settling);

            let totals = fleet.totals();
            prop_assert_eq!(news.summary.totals, totals);
            prop_assert_eq!(above(&before, &totals), Counts::default(), "a total went down");
            let mut expected = Counts::default();
            for most in &most {
                expected += *most;
            }
            prop_assert_eq!(totals, expected);
            before = totals;

            prop_assert_eq!(news.summary.consumers, round.answers.len());
            for Event { id, change, .. } in news.events {
                match change {
                    Change::Missing { .. } => {
                        prop_assert!(missing.insert(id), "told to be missing twice");
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
