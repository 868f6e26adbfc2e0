//! SIGTERM while jobs are under way.

use test_support::{NatsServer, Signal};

use crate::support::{Responder, file, file_of, logged, publisher};

#[tokio::test]
async fn jobs_under_way_end_and_no_new_ones_are_taken() {
    let nats = NatsServer::start().await;
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let responder = Responder::start(&nats, move |request| {
        let _ = ask.send((request.reply.clone().unwrap(), request.outcome("succeeded")));
        None
    })
    .await;
    let (_folder, input) = file_of((0..100).map(|_| r#"{"kind":"a"}"#.to_owned()));
    let mut publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .args(["--in-flight", "7"])
        .start();
    responder.asked(7).await;
    publisher.signal(Signal::SIGTERM);
    let line = publisher
        .wait_for_line(|line| line.contains("taking no more jobs"))
        .await;
    assert!(line.contains("under_way=7"), "{line}");
    for _ in 0..7 {
        let (reply, outcome) = asked.recv().await.unwrap();
        responder
            .client
            .publish(reply, outcome.into())
            .await
            .unwrap();
    }
    assert!(publisher.wait().await.success());
    let summary = logged(&publisher, "summary");
    assert!(summary.contains("submitted=7 succeeded=7"), "{summary}");
    assert_eq!(responder.requests().len(), 7);
}

#[tokio::test]
async fn jobs_that_do_not_end_in_time_are_named() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |_| None).await;
    let (_folder, input) = file_of((0..3).map(|_| r#"{"kind":"a"}"#.to_owned()));
    let (_other, output) = file("outcomes.ndjson");
    let mut publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(&output)
        .args(["--grace", "500ms"])
        .start();
    responder.asked(3).await;
    publisher.signal(Signal::SIGINT);
    assert_eq!(publisher.wait().await.code(), Some(1));
    let given_up = logged(&publisher, "jobs that were given up");
    for (number, request) in (1..).zip(responder.requests().iter()) {
        let named = format!("{} (line {number})", request.id());
        assert!(given_up.contains(&named), "{given_up}");
    }
    assert!(logged(&publisher, "summary").contains("given_up=3"));
    let outcomes = std::fs::read_to_string(output).unwrap();
    assert_eq!(
        outcomes.matches(r#""code":"interrupted""#).count(),
        3,
        "{outcomes}"
    );
}

#[tokio::test]
async fn an_output_that_fails_ends_the_run_with_a_summary() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| {
        (request.number == 0).then(|| request.outcome("succeeded"))
    })
    .await;
    let (_folder, input) = file_of((0..3).map(|_| r#"{"kind":"a"}"#.to_owned()));
    let mut publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .args(["--output", "/dev/full"])
        .start();
    assert_eq!(publisher.wait().await.code(), Some(1));
    let summary = logged(&publisher, "summary");
    assert!(
        summary.contains("submitted=3 succeeded=1 ") && summary.contains("given_up=2"),
        "{summary}"
    );
    let given_up = logged(&publisher, "jobs that were given up");
    for request in &responder.requests()[1..] {
        assert!(given_up.contains(&request.id().to_string()), "{given_up}");
    }
    logged(&publisher, "cannot write the output /dev/full");
}

#[tokio::test]
async fn a_publisher_of_endless_jobs_exits_with_success() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |_| None).await;
    let mut publisher = publisher(&nats).args(["--grace", "300ms"]).start();
    responder.asked(1).await;
    publisher.signal(Signal::SIGTERM);
    assert!(publisher.wait().await.success());
    assert!(logged(&publisher, "summary").contains("given_up=1"));
}

#[tokio::test]
async fn a_publisher_that_waits_for_input_stops_too() {
    let nats = NatsServer::start().await;
    let (_folder, pipe) = file("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let mut publisher = publisher(&nats).arg("--input").arg(&pipe).start();
    let input = tokio::task::spawn_blocking(move || std::fs::File::create(pipe).unwrap());
    let _input = input.await.unwrap();
    publisher
        .wait_for_line(|line| line.contains("reading jobs"))
        .await;
    publisher.signal(Signal::SIGTERM);
    assert!(publisher.wait().await.success());
}

#[tokio::test]
async fn outcomes_that_are_never_read_do_not_make_it_hang() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let (_folder, input) = file_of((0..50_000).map(|_| r#"{"kind":"a"}"#.to_owned()));
    let (_other, pipe) = file("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    // Open for reading, and never read.
    let reader = {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || std::fs::File::open(pipe).unwrap())
    };
    let mut publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(&pipe)
        .args(["--grace", "500ms"])
        .start();
    let _reader = reader.await.unwrap();
    responder.asked(3_000).await;
    publisher.signal(Signal::SIGTERM);
    assert_eq!(publisher.wait().await.code(), Some(1));
    let lines = publisher.stdout();
    assert!(
        lines.iter().any(|line| line.contains("outcomes")),
        "it does not say what is wrong: {lines:?}"
    );
}
