//! Single rounds of questions on a real server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::{Behaviour, Simulated, encoded, processed, reply, status, thousand};
use async_nats::{Client, Message};
use common::ConsumerState;
use common::subjects::STATUS;
use futures_util::StreamExt as _;
use status_service::{Asker, InstanceId, Round, RoundEnd};
use test_support::{DEADLINE, NatsServer, eventually};

/// Longer than any round may take that does not have to wait.
const LONG: Duration = Duration::from_secs(30);

fn id(name: &str) -> InstanceId {
    InstanceId {
        consumer: name.to_owned(),
        started_at: status(name).started_at,
    }
}

async fn asker(nats: &NatsServer) -> Asker {
    let asker = Asker::new(nats.connect_as("status").await.into()).await;
    asker.expect("the connection is open")
}

async fn ask(asker: &mut Asker, awaited: &[&str], timeout: Duration) -> Round {
    let awaited: BTreeSet<_> = awaited.iter().map(|name| id(name)).collect();
    let round = asker.ask(awaited, timeout).await;
    round.expect("the connection is open")
}

/// Asks until `answers` consumers answer: the server takes a moment to know all subscriptions.
async fn ask_until(asker: &mut Asker, awaited: &[&str], answers: usize) -> Round {
    eventually(DEADLINE, "answers of all", async || {
        let round = ask(asker, awaited, LONG).await;
        (round.answers.len() == answers).then_some(round)
    })
    .await
}

fn names(round: &Round) -> Vec<&str> {
    let answers = round.answers.iter();
    let mut names: Vec<_> = answers.map(|answer| answer.id.consumer.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn new_consumers_are_found_in_one_round() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let _one = Simulated::start(&worker, "one").await;
    let _two = Simulated::start(&worker, "two").await;
    let mut asker = asker(&nats).await;
    let round = ask_until(&mut asker, &[], 2).await;
    assert_eq!(names(&round), ["one", "two"]);
    assert_eq!(round.end, RoundEnd::Complete);

    let _three = Simulated::start(&worker, "three").await;
    let round = ask_until(&mut asker, &["one", "two"], 3).await;
    assert_eq!(names(&round), ["one", "three", "two"]);
    assert_eq!(round.end, RoundEnd::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_a_thousand_consumers_ends_in_well_under_a_second() {
    let nats = NatsServer::start().await;
    let _consumers = thousand(&nats, |n, status| status.totals = processed(n)).await;
    let mut asker = asker(&nats).await;
    let first = ask_until(&mut asker, &[], 1_000).await;
    let known: BTreeSet<_> = first.answers.iter().map(|it| it.id.clone()).collect();
    assert_eq!(known.len(), 1_000);
    let mut times = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        let round = asker.ask(known.clone(), LONG).await.unwrap();
        times.push(start.elapsed());
        assert_eq!(
            (round.answers.len(), round.end),
            (1_000, RoundEnd::Complete)
        );
        let sum: u64 = round.answers.iter().map(|it| it.counts.processed).sum();
        assert_eq!(sum, 4 * (0..250).sum::<u64>());
    }
    // The quickest, as the machine may do other things too.
    let quickest = times.iter().min().unwrap();
    assert!(*quickest < Duration::from_millis(500), "{times:?}");
}

#[tokio::test]
async fn a_mute_consumer_costs_the_timeout_and_no_more() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let _one = Simulated::start(&worker, "one").await;
    let two = Simulated::start(&worker, "two").await;
    let mut asker = asker(&nats).await;
    ask_until(&mut asker, &["one", "two"], 2).await;
    two.behave(Behaviour::Mute);
    let timeout = Duration::from_millis(700);
    let start = Instant::now();
    let round = ask(&mut asker, &["one", "two"], timeout).await;
    let took = start.elapsed();
    assert_eq!(names(&round), ["one"]);
    assert_eq!(round.end, RoundEnd::TimedOut);
    assert!(took >= timeout && took < LONG, "{took:?}");
    // One that is not waited for costs nothing.
    let round = ask(&mut asker, &["one"], LONG).await;
    assert_eq!(round.end, RoundEnd::Complete);
}

#[tokio::test]
async fn a_round_ends_at_once_without_subscribers() {
    let nats = NatsServer::start().await;
    let mut asker = asker(&nats).await;
    let start = Instant::now();
    let round = ask(&mut asker, &["one"], LONG).await;
    assert_eq!(round.end, RoundEnd::NoResponders);
    assert!(start.elapsed() < LONG / 2);
    assert!(round.answers.is_empty());
}

#[tokio::test]
async fn garbage_huge_and_repeated_answers_are_ignored_and_counted() {
    let nats = NatsServer::builder()
        .config("max_payload: 8MB")
        .start()
        .await;
    let worker = nats.connect_as("worker").await;
    let _good = Simulated::start(&worker, "good").await;
    let twice = Simulated::start(&worker, "twice").await;
    let liar = Simulated::start(&worker, "liar").await;
    let mut asker = asker(&nats).await;
    ask_until(&mut asker, &["good", "twice", "liar"], 3).await;

    twice.behave(Behaviour::Repeat(3));
    let huge = format!(
        "{}{}",
        serde_json::to_string(&status("huge")).unwrap(),
        " ".repeat(2 << 20)
    );
    let mut endless = status("endless");
    endless.totals = processed(u64::MAX);
    let garbage: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"[".repeat(100_000),
        br#"{"consumer":"x"}"#.to_vec(),
        br#"{"consumer":1e400}"#.to_vec(),
        huge.into_bytes(),
        encoded(&endless),
    ];
    let count = garbage.len() as u64;
    liar.behave(Behaviour::Raw(garbage));
    // All of the garbage has arrived when a round waited in vain for the liar.
    let round = ask(
        &mut asker,
        &["good", "twice", "liar"],
        Duration::from_secs(3),
    )
    .await;
    assert_eq!(names(&round), ["good", "twice"]);
    assert_eq!(round.end, RoundEnd::TimedOut);
    assert_eq!(
        (round.ignored.garbage, round.ignored.duplicates),
        (count, 2)
    );
    let reason = round.ignored.reason.unwrap();
    assert!(reason.contains("not the status of a consumer"), "{reason}");
}

#[tokio::test]
async fn more_answers_than_are_read_are_cut_off_and_it_shows() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let crowd = Simulated::start(&worker, "crowd").await;
    let mut asker = asker(&nats).await;
    ask_until(&mut asker, &["crowd"], 1).await;
    let answers = (0..10_001).map(|n| encoded(&status(&format!("one-of-{n}"))));
    crowd.behave(Behaviour::Raw(answers.collect()));
    let round = ask(&mut asker, &["crowd"], DEADLINE).await;
    assert_eq!(
        (round.answers.len(), round.end),
        (10_000, RoundEnd::Truncated)
    );
    // What is left of it does not spill into the next round.
    crowd.behave(Behaviour::Answer);
    let round = ask(&mut asker, &["crowd"], LONG).await;
    assert_eq!(names(&round), ["crowd"]);
    assert_eq!(round.end, RoundEnd::Complete);
}

/// A consumer's end of jobs.status, in the hands of the test.
struct ByHand {
    client: Client,
    questions: async_nats::Subscriber,
}

impl ByHand {
    async fn start(nats: &NatsServer) -> Self {
        let client = nats.connect_as("worker").await;
        let questions = client.subscribe(STATUS).await;
        let questions = questions.expect("the connection is open");
        Self { client, questions }
    }

    async fn question(&mut self) -> Message {
        let question = self.questions.next().await;
        question.expect("the connection is open")
    }

    async fn answer(&self, question: &Message, name: &str, count: u64) {
        let mut status = status(name);
        status.totals = processed(count);
        reply(&self.client, question, encoded(&status)).await;
    }
}

/// One question that was not answered in time, and the consumer that holds it.
async fn unanswered(nats: &NatsServer) -> (Asker, ByHand, Message) {
    let mut asker = asker(nats).await;
    let mut by_hand = ByHand::start(nats).await;
    // The first question that reaches the consumer is known to be over when the round is.
    let question = eventually(DEADLINE, "a question to arrive", async || {
        let round = ask(&mut asker, &["slow"], Duration::from_millis(50)).await;
        if round.end == RoundEnd::NoResponders {
            return None;
        }
        Some(by_hand.question().await)
    })
    .await;
    (asker, by_hand, question)
}

#[tokio::test]
async fn an_answer_that_comes_in_the_next_round_is_late_and_no_answer_to_it() {
    let nats = NatsServer::start().await;
    let (mut asker, mut by_hand, first) = unanswered(&nats).await;
    let second_round = ask(&mut asker, &["slow", "quick"], LONG);
    let answers = async {
        let second = by_hand.question().await;
        by_hand.answer(&first, "slow", 1).await;
        by_hand.answer(&second, "quick", 2).await;
        by_hand.answer(&second, "slow", 3).await;
    };
    let (round, ()) = tokio::join!(second_round, answers);
    assert_eq!(names(&round), ["quick", "slow"]);
    assert_eq!(round.end, RoundEnd::Complete);
    let slow = round.answers.iter().find(|it| it.id.consumer == "slow");
    assert_eq!(slow.unwrap().counts.processed, 3);
    assert_eq!(round.late.len(), 1);
    assert_eq!(round.late[0].counts.processed, 1);
    assert_eq!(round.ignored.total(), 0, "late is not wrong");
}

#[tokio::test]
async fn the_last_answer_of_a_stopping_consumer_replaces_its_answer_in_the_same_round() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    let words = [(ConsumerState::Running, 5), (ConsumerState::Draining, 6)];
    let words = [words[0], words[1], words[1], words[0]].map(|(state, count)| {
        let mut status = status("one");
        (status.state, status.totals) = (state, processed(count));
        encoded(&status)
    });
    one.behave(Behaviour::Raw(words.to_vec()));
    // One that stays away keeps the round open for all four.
    let round = ask(
        &mut asker(&nats).await,
        &["one", "two"],
        Duration::from_secs(1),
    )
    .await;
    assert_eq!(names(&round), ["one"]);
    assert_eq!(round.answers[0].counts.processed, 6);
    assert_eq!(round.ignored.duplicates, 2);
}

#[tokio::test]
async fn an_answer_that_comes_between_rounds_is_heard() {
    let nats = NatsServer::start().await;
    let (mut asker, by_hand, first) = unanswered(&nats).await;
    reply(&by_hand.client, &first, b"garbage".to_vec()).await;
    by_hand.answer(&first, "slow", 7).await;
    let late = tokio::time::timeout(DEADLINE, asker.late()).await.unwrap();
    assert_eq!(late.unwrap().counts.processed, 7);
}
