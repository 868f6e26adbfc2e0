//! The service as a child process, on a real server with simulated consumers.

use std::time::{Duration, Instant};

use crate::support::{
    Behaviour, Simulated, Watched, binary, encoded, lane, processed, status, thousand, timestamp,
};
use common::ConsumerState;
use serde_json::Value;
use test_support::{NatsServer, Signal};

const MISSING: &str = "consumer is missing";
const NO_ANSWERS_YET: &str = "no consumer answers on jobs.status yet";
const NO_ANSWERS: &str = "no consumer answers on jobs.status";
const ANSWERS: &str = "consumers answer on jobs.status";
const ANSWERS_AGAIN: &str = "consumers answer on jobs.status again";

/// A short timeout, so that rounds with a mute consumer are short.
const TIMEOUT: [&str; 2] = ["--timeout", "300ms"];

fn fleet(consumers: usize, total: u64) -> impl Fn(&Value) -> bool {
    move |line| line["consumers"] == consumers && line["processed"] == total
}

/// Texts from messages are logged as Rust would write them.
fn is(field: &'static str, text: &str) -> impl Fn(&Value) -> bool {
    let text = format!("{text:?}");
    move |line| line[field] == text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_consumers_are_counted() {
    let nats = NatsServer::start().await;
    let consumers = thousand(&nats, |n, status| {
        (status.totals, status.in_flight, status.waiting) = (processed(1_000 + n), 2, 1);
    })
    .await;
    let mut watched = Watched::start(&nats, &[]);
    let total = 1_000 * 1_000 + 4 * (0..250).sum::<u64>();
    let line = watched.next("fleet", fleet(1_000, total)).await;
    assert_eq!(
        (&line["in_flight"], &line["waiting"]),
        (&2_000.into(), &1_000.into())
    );
    // Each does ten jobs more, but for one that does twenty.
    for (n, consumer) in consumers.iter().enumerate() {
        let more = if n == 0 { 20 } else { 10 };
        consumer.change(|status| status.totals.processed += more);
    }
    watched.next("fleet", fleet(1_000, total + 10_010)).await;
    let lines = watched.lines();
    let since: u64 = lines
        .iter()
        .skip_while(|line| line["processed"] != total)
        .skip(1)
        .filter_map(|line| line["since_last"].as_u64())
        .sum();
    assert_eq!(since, 10_010, "what was done adds up");
}

#[tokio::test]
async fn a_line_tells_the_work_the_rate_and_how_it_is_spread() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    let two = Simulated::start(&worker, "two").await;
    let mut watched = Watched::start(
        &nats,
        &["--interval", "1s", "--log", "info,status_service=debug"],
    );
    watched.next("fleet", fleet(2, 0)).await;
    one.change(|status| {
        status.totals = processed(40);
        (status.totals.failed, status.totals.rejected) = (3, 2);
        (status.state, status.waiting) = (ConsumerState::Saturated, 9);
    });
    let line = watched.next("fleet", |line| line["since_last"] == 40).await;
    let rate = line["per_second"].as_f64().unwrap();
    assert!(rate > 1.0 && rate < 80.0, "{line}");
    assert_eq!(line["spread"], "0.0%..100.0%");
    assert_eq!(
        (&line["running"], &line["saturated"]),
        (&1.into(), &1.into())
    );
    assert_eq!((&line["failed"], &line["rejected"]), (&3.into(), &2.into()));
    assert_eq!(line["waiting"], 9);
    let idle = watched.next("fleet", |_| true).await;
    assert_eq!(
        (&idle["since_last"], &idle["spread"]),
        (&0.into(), &"-".into())
    );
    two.change(|status| {
        status.totals = processed(7);
        status.lanes = [(
            "core".to_owned(),
            lane("mail.send", processed(7), 0.5, 12.0),
        )]
        .into();
    });
    watched.next("fleet", fleet(2, 47)).await;
    let lines = watched.lines();
    let two = lines
        .iter()
        .rfind(|line| line["message"] == "consumer" && is("consumer", "two")(line))
        .expect("a line of each consumer at debug level");
    assert_eq!(two["level"], "DEBUG");
    assert!(
        is("run_times", "mail.send p50=0.5ms p99=12ms")(two),
        "{two}"
    );
}

#[tokio::test]
async fn a_mute_consumer_is_missing_once_and_back_once_and_gone_in_the_end() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    let two = Simulated::start(&worker, "two").await;
    one.change(|status| status.totals = processed(10));
    two.change(|status| (status.totals, status.in_flight) = (processed(20), 3));
    let gone_after = ["--gone-after", "2s"];
    let mut watched = Watched::start(&nats, &[TIMEOUT, gone_after].concat());
    watched.next("fleet", fleet(2, 30)).await;

    two.behave(Behaviour::Mute);
    let line = watched.next(MISSING, is("consumer", "two")).await;
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        (&line["in_flight"], &line["waiting"]),
        (&3.into(), &0.into())
    );
    assert!(
        is("host", "host-of-two")(&line) && line["silent_s"].is_number(),
        "{line}"
    );
    watched.rounds(3).await;
    let line = watched.next("fleet", fleet(1, 30)).await;
    assert_eq!(line["missing"], 1);
    assert_eq!(watched.count(MISSING), 1);

    two.behave(Behaviour::Answer);
    watched
        .next("consumer answers again", is("consumer", "two"))
        .await;
    watched.next("fleet", fleet(2, 30)).await;

    two.behave(Behaviour::Mute);
    watched.next(MISSING, is("consumer", "two")).await;
    let line = watched
        .next("consumer is gone, its counts stay", is("consumer", "two"))
        .await;
    assert!(line["silent_s"].as_f64().unwrap() >= 2.0, "{line}");
    let line = watched.next("fleet", fleet(1, 30)).await;
    assert_eq!(line["missing"], 0);
    assert_eq!(watched.count(MISSING), 2);

    two.change(|status| status.totals = processed(25));
    two.behave(Behaviour::Answer);
    watched.next("fleet", fleet(2, 35)).await;
}

#[tokio::test]
async fn totals_grow_only_while_the_fleet_is_scaled_up_and_down_and_restarted() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    one.change(|status| status.totals = processed(10));
    let mut watched = Watched::start(&nats, &TIMEOUT);
    watched.next("fleet", fleet(1, 10)).await;

    let two = Simulated::start(&worker, "two").await;
    two.change(|status| status.totals = processed(5));
    watched.next("consumer joined", is("consumer", "two")).await;
    watched.next("fleet", fleet(2, 15)).await;

    two.change(|status| (status.state, status.totals) = (ConsumerState::Draining, processed(6)));
    let line = watched.next("fleet", fleet(2, 16)).await;
    assert_eq!(line["draining"], 1);
    drop(two);
    let line = watched.next("consumer left", is("consumer", "two")).await;
    assert_eq!(line["processed"], 6);
    watched.next("fleet", fleet(1, 16)).await;

    let mut reborn = status("one");
    reborn.started_at = timestamp("2026-01-31T10:00:00Z");
    reborn.totals = processed(1);
    let _reborn = Simulated::with(&worker, reborn).await;
    drop(one);
    watched
        .next("consumer restarted", is("consumer", "one"))
        .await;
    watched.next("fleet", fleet(1, 17)).await;

    let lines = watched.lines();
    let totals: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "fleet")
        .map(|line| line["processed"].as_u64().unwrap())
        .collect();
    assert!(totals.is_sorted(), "{totals:?}");
    assert_eq!(watched.count(MISSING), 0, "none was missing");
}

#[tokio::test]
async fn the_last_answer_of_a_consumer_that_stops_between_rounds_counts() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    let two = Simulated::start(&worker, "two").await;
    one.change(|status| status.totals = processed(10));
    let mut watched = Watched::start(&nats, &["--interval", "2s"]);
    watched.next("fleet", fleet(2, 10)).await;
    two.change(|status| status.totals = processed(7));
    two.leave().await;
    let line = watched.next("consumer left", is("consumer", "two")).await;
    assert_eq!(line["processed"], 7);
    watched.next("fleet", fleet(1, 17)).await;
    assert_eq!(watched.count(MISSING), 0);
}

#[tokio::test]
async fn garbage_is_logged_once_and_counted_and_does_no_harm() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let good = Simulated::start(&worker, "good").await;
    good.change(|status| status.totals = processed(10));
    good.behave(Behaviour::Repeat(2));
    let bad = Simulated::start(&worker, "bad").await;
    let mut name = status("bad\n\u{1b}[31m");
    name.host = "h".repeat(300);
    bad.behave(Behaviour::Raw(vec![b"\x00".to_vec(), encoded(&name)]));
    let mut watched = Watched::start(&nats, &TIMEOUT);
    let message = "some answers on jobs.status are ignored";
    let line = watched.next(message, |_| true).await;
    let garbage = line["garbage"].as_u64().unwrap();
    assert!((1..=2).contains(&garbage), "{line}");
    watched.rounds(3).await;
    watched.next("fleet", fleet(1, 10)).await;
    assert_eq!(watched.count(message), 1);
    watched.service.signal(Signal::SIGTERM);
    assert!(watched.service.wait().await.success());
    let line = watched.next("stopped asking", |_| true).await;
    let rounds = line["rounds"].as_u64().unwrap();
    let ignored = line["ignored"].as_u64().unwrap();
    assert!(ignored > 3 && ignored <= 3 * rounds, "{line}");
}

#[tokio::test]
async fn that_no_consumer_answers_is_logged_once_and_that_they_answer_again_once() {
    let nats = NatsServer::start().await;
    let mut watched = Watched::start(&nats, &TIMEOUT);
    // At the start it is no wonder.
    watched
        .next(NO_ANSWERS_YET, |line| line["level"] == "INFO")
        .await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    watched.next(ANSWERS, |line| line["level"] == "INFO").await;
    watched.rounds(2).await;
    assert_eq!((watched.count(NO_ANSWERS), watched.count(ANSWERS)), (0, 1));
    drop(one);
    watched
        .next(NO_ANSWERS, |line| line["level"] == "WARN")
        .await;
    let _two = Simulated::start(&worker, "two").await;
    watched
        .next(ANSWERS_AGAIN, |line| line["level"] == "INFO")
        .await;
    let counts = [NO_ANSWERS_YET, NO_ANSWERS, ANSWERS, ANSWERS_AGAIN];
    assert_eq!(counts.map(|message| watched.count(message)), [1; 4]);
}

#[tokio::test]
async fn it_is_quiet_while_nothing_happens() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    one.change(|status| status.totals = processed(10));
    let mut watched = Watched::start(&nats, &["--log", "info"]);
    watched.next("fleet", fleet(1, 10)).await;
    one.is_asked(10).await;
    let lines = watched.lines();
    let warnings = lines.iter().filter(|line| line["level"] != "INFO").count();
    assert_eq!((watched.count("fleet"), warnings), (1, 0), "{lines:#?}");
    let after_start = lines.iter().skip_while(|line| line["message"] != "fleet");
    assert_eq!(after_start.count(), 1, "{lines:#?}");
    // Whatever happens then is told.
    one.change(|status| status.totals = processed(11));
    watched.next("fleet", fleet(1, 11)).await;
    one.change(|status| status.waiting = 3);
    watched.next("fleet", |line| line["waiting"] == 3).await;
}

#[tokio::test]
async fn a_server_restart_loses_no_count_and_makes_no_consumer_missing() {
    let mut nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    one.change(|status| status.totals = processed(10));
    let two = Simulated::start(&worker, "two").await;
    two.change(|status| status.totals = processed(20));
    let mut watched = Watched::start(&nats, &TIMEOUT);
    watched.next("fleet", fleet(2, 30)).await;
    nats.kill().await;
    watched.next("lost NATS, reconnecting", |_| true).await;
    one.change(|status| status.totals = processed(15));
    nats.start_again().await;
    watched.next("connected to NATS", |_| true).await;
    let line = watched.next("fleet", fleet(2, 35)).await;
    assert_eq!(line["missing"], 0);
    for line in [MISSING, NO_ANSWERS, "consumer is gone, its counts stay"] {
        assert_eq!(watched.count(line), 0, "{line}");
    }
    assert_eq!(watched.count("lost NATS, reconnecting"), 1);
}

#[tokio::test]
async fn it_stops_at_once_with_its_totals_even_in_the_middle_of_a_round() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let one = Simulated::start(&worker, "one").await;
    one.change(|status| {
        status.totals = processed(10);
        status.totals.failed = 1;
    });
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        one.behave(Behaviour::Answer);
        let mut watched = Watched::start(&nats, &["--timeout", "1h"]);
        watched.next("fleet", fleet(1, 10)).await;
        one.behave(Behaviour::Mute);
        // This round would take an hour.
        one.ignored_a_question().await;
        let start = Instant::now();
        watched.service.signal(signal);
        assert_eq!(watched.service.wait().await.code(), Some(0));
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        let lines = watched.lines();
        let last = lines.last().unwrap();
        assert_eq!(last["message"], "stopped asking");
        assert_eq!(
            (&last["processed"], &last["failed"]),
            (&10.into(), &1.into())
        );
    }
}

#[tokio::test]
async fn it_stops_with_success_while_it_waits_for_a_server() {
    let mut nats = NatsServer::start().await;
    let variables = nats.env_for("status");
    nats.stop().await;
    let mut service = binary().envs(variables).start();
    service
        .wait_for_line(|line| line.contains("NATS cannot be reached"))
        .await;
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait().await.code(), Some(0));
}

#[tokio::test]
async fn it_is_found_as_a_micro_service() {
    let nats = NatsServer::start().await;
    let mut watched = Watched::start(&nats, &["--instance", "status-1"]);
    watched.next(NO_ANSWERS_YET, |_| true).await;
    let client = nats.connect_as("status").await;
    let answer = client
        .request("$SRV.PING.status-service", "".into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["metadata"]["instance"], "status-1");
    assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
}
