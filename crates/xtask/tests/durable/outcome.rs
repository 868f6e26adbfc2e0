//! What becomes of a job when nothing breaks but the job itself.

use std::time::Duration;

use async_nats::HeaderMap;
use common::{DeadReason, FailedAttempt, JobId, JobRecord, JobState, codes, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer};

use crate::fixture::stop;
use crate::lane::{Lane, between};

/// A ceiling for the wait before a retry.
fn backoff(wait: &str) -> Value {
    json!({"initial": wait, "factor": 1, "max": wait})
}

/// An attempt's number, consumer and error code.
fn failures(record: &JobRecord) -> Vec<(u32, &str, &str)> {
    let failures = record.failures.iter();
    failures
        .map(|failure| {
            let consumer = failure.consumer.as_deref().unwrap_or_default();
            (failure.attempt, consumer, &*failure.error.code)
        })
        .collect()
}

#[tokio::test]
async fn a_job_is_run_once_and_its_result_is_kept_under_its_id() {
    let lane = Lane::start().await;
    // It waits in the queue; the stream is there as soon as a consumer was.
    let _consumer = lane.consumer("only", &[]).await;
    let jobs = lane
        .submit_all((0..200).map(|_| json!({"kind": "note"})))
        .await;
    let nested = lane.submit(json!({"kind": "mail.send"})).await;
    let echo = lane
        .submit(json!({"kind": "echo", "payload": {"a": [1, "ü"]}}))
        .await;

    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 0..=0);
    for record in ended.values() {
        assert_eq!((record.state, record.attempt), (JobState::Succeeded, 1));
        assert_eq!(record.result.as_ref().unwrap().get(), "\"only\"");
        assert_eq!(record.consumer.as_deref(), Some("only"));
        assert!(record.failures.is_empty() && record.duration_ms > Some(0.0));
    }
    let record = lane.becomes(echo, JobState::Succeeded).await;
    assert_eq!(record.result.unwrap().get(), r#"{"a":[1,"ü"]}"#);
    lane.becomes(nested, JobState::Succeeded).await;
    assert_eq!(lane.ledger().of(nested).len(), 1);
    // What has ended takes no room in the queue.
    lane.queue_empties().await;
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_after_a_wait_in_the_consumer_or_in_the_server() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &["--concurrency", "8"]).await;
    // Waits are a random part of the ceiling: of 40 jobs with two waits each some are below a second,
    // and some above it, but for once in ten billion runs.
    let jobs = lane
        .submit_all((0..40).map(|_| json!({"kind": "flaky", "backoff": backoff("3s")})))
        .await;
    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 80..=80);
    let (mut short, mut long) = (0, 0);
    for record in ended.values() {
        assert_eq!((record.state, record.attempt), (JobState::Succeeded, 3));
        let kept: Vec<_> = failures(record);
        assert_eq!(
            kept,
            [(1, "only", codes::TRANSIENT), (2, "only", codes::TRANSIENT)]
        );
        assert!(
            record.failures[0].error.message.contains("not yet"),
            "{record:?}"
        );
        let events = lane.events_of(record.id);
        let retrying = events
            .iter()
            .filter(|event| event.state == JobState::Retrying);
        for (event, next) in retrying.zip([&record.failures[1].at, &record.at]) {
            let wait = between(event.at, event.next_at.unwrap());
            assert!(wait <= Duration::from_secs(3), "{wait:?}");
            // It ended later than it began, and it began no earlier than it was to.
            assert!(*next >= event.next_at.unwrap(), "{event:?} {record:?}");
            let slack = between(event.next_at.unwrap(), *next);
            assert!(slack < Duration::from_secs(5), "{slack:?} too late");
            // A wait in the server begins a new run, with a message of its own.
            let in_the_server = event.run > event.attempt || wait >= Duration::from_secs(1);
            if in_the_server {
                long += 1;
            } else {
                short += 1;
            }
        }
        // Both ends of each wait are told.
        assert_eq!(
            events
                .iter()
                .filter(|event| event.state == JobState::Retrying)
                .count(),
            2
        );
    }
    println!("waits below a second {short}, from a second on {long}");
    assert!(short > 0 && long > 0);
}

#[tokio::test]
async fn a_job_whose_attempts_are_used_up_is_a_dead_letter_as_it_was_submitted() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let id = JobId::generate();
    // Blanks and the order of the fields are kept, too.
    let bytes = format!(
        r#"{{"kind": "fail",   "payload": {{"message": "no"}}, "id": "{id}", "max_attempts": 2,
        "backoff": {{"initial": "100ms"}}}}"#
    );
    let mut headers = HeaderMap::new();
    headers.insert("X-Tenant", "a");
    headers.append("X-Tenant", "b");
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let subject = format!("jobs.durable.{id}.high.1.fail");
    lane.publish(subject, headers, bytes.clone()).await.unwrap();

    let record = lane.becomes(id, JobState::Dead).await;
    assert_eq!(record.reason, Some(DeadReason::AttemptsUsedUp));
    assert_eq!(record.attempt, 2);
    assert_eq!(
        failures(&record),
        [(1, "only", codes::TRANSIENT), (2, "only", codes::TRANSIENT)]
    );
    let letter = lane.dead_letter(id, "fail").await.unwrap();
    assert_eq!(letter.payload, bytes);
    let headers = letter.headers.unwrap();
    let tenants: Vec<_> = headers
        .get_all("X-Tenant")
        .map(ToString::to_string)
        .collect();
    assert_eq!(tenants, ["a", "b"]);
    assert!(headers.get("Nats-Expected-Last-Subject-Sequence").is_none());
    let header = |name| headers.get(name).unwrap().as_str();
    assert_eq!(header(subjects::DEAD_REASON_HEADER), "attempts_used_up");
    assert_eq!(header(subjects::PRIORITY_HEADER), "high");
    assert_eq!(header(subjects::RUN_HEADER), "1");
    let kept: Vec<FailedAttempt> =
        serde_json::from_str(header(subjects::DEAD_FAILURES_HEADER)).unwrap();
    assert_eq!(kept, record.failures);
}

#[tokio::test]
async fn a_job_that_no_repetition_can_help_is_a_dead_letter_at_once() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let refused = lane.submit(json!({"kind": "refuse"})).await;
    // Its payload is not what the handler takes.
    let misread = lane
        .submit(json!({"kind": "sleep", "payload": "long"}))
        .await;
    let record = lane.becomes(refused, JobState::Dead).await;
    assert_eq!(record.reason, Some(DeadReason::Permanent));
    assert_eq!(failures(&record), [(1, "only", codes::PERMANENT)]);
    assert!(record.failures[0].error.message.contains("no such address"));
    assert_eq!(lane.ledger().of(refused).len(), 1);
    assert!(lane.dead_letter(refused, "refuse").await.is_some());

    let record = lane.becomes(misread, JobState::Dead).await;
    assert_eq!(failures(&record), [(1, "only", codes::INVALID_PAYLOAD)]);
    assert_eq!(lane.count("JOBS_STATE", "jobs.dead.>").await, 2);
}

#[tokio::test]
async fn bytes_that_are_no_job_and_jobs_that_deny_their_subject_are_kept_as_they_are() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let other = JobId::generate();
    let deep = format!("{}1{}", r#"{"a":"#.repeat(129), "}".repeat(129));
    let cases: [(&[u8], &str); 9] = [
        (b"\xff\x00 no JSON", "not JSON"),
        (b"", "not JSON"),
        (br#"["note"]"#, "an array"),
        (br#"{"kind": "note", "prio": 1}"#, "prio"),
        (br#"{"kind": "echo"}"#, "field `kind`"),
        (
            &format!(r#"{{"kind": "note", "id": "{other}"}}"#).into_bytes(),
            "field `id`",
        ),
        (
            &format!(r#"{{"kind": "note", "payload": {deep}}}"#).into_bytes(),
            "field `payload`: nested deeper than 128 levels",
        ),
        (
            br#"{"kind": "note", "payload": ["\udc00"]}"#,
            "field `payload`: a string has an unpaired surrogate",
        ),
        (
            br#"{"kind": "note", "payload": 1, "payload": 2}"#,
            "duplicate field `payload`",
        ),
    ];
    for (bytes, why) in cases {
        let id = JobId::generate();
        let subject = format!("jobs.durable.{id}.normal.1.note");
        lane.publish(subject, HeaderMap::new(), bytes.to_vec())
            .await
            .unwrap();
        let record = lane.becomes(id, JobState::Dead).await;
        assert_eq!(record.reason, Some(DeadReason::Undecodable), "{record:?}");
        assert!(
            record.failures[0].error.message.contains(why),
            "{why}: {record:?}"
        );
        let letter = lane.dead_letter(id, "note").await.unwrap();
        assert_eq!(letter.payload, bytes);
    }
    // A subject that names no job: its number in the stream takes the place of the id.
    let subject = "jobs.durable.not-an-id.normal.1.note".to_owned();
    let bytes = r#"{"kind": "note"}"#;
    let number = lane
        .publish(subject, HeaderMap::new(), bytes)
        .await
        .unwrap();
    let id = JobId::of_unreadable(number);
    let record = lane.becomes(id, JobState::Dead).await;
    assert_eq!(record.reason, Some(DeadReason::Undecodable), "{record:?}");
    assert_eq!(lane.dead_letter(id, "note").await.unwrap().payload, bytes);
    assert!(lane.ledger().0.is_empty(), "one of them was run");
}

#[tokio::test]
async fn panics_hangs_and_bad_results_end_their_own_job_and_no_other() {
    let lane = Lane::start().await;
    let consumer = InProcess::start(&lane.fixture.server);
    let _other = lane.consumer("other", &[]).await;
    let two = |kind: &str| json!({"kind": kind, "max_attempts": 2, "backoff": backoff("50ms")});
    let panics = lane.submit(two("panic")).await;
    let mut hanging = two("sleep");
    hanging["payload"] = json!({"ms": 600_000});
    hanging["timeout"] = json!("200ms");
    let hangs = lane.submit(hanging).await;
    let endless = lane.submit(json!({"kind": "endless"})).await;
    let large = lane.submit(json!({"kind": "large"})).await;
    let deep = lane.submit(json!({"kind": "deep"})).await;
    let surrogate = lane.submit(json!({"kind": "surrogate"})).await;
    let good = lane
        .submit_all((0..20).map(|_| json!({"kind": "note"})))
        .await;

    for (id, reason, code, attempts) in [
        (panics, DeadReason::AttemptsUsedUp, codes::PANIC, 2),
        (hangs, DeadReason::AttemptsUsedUp, codes::TIMEOUT, 2),
        (endless, DeadReason::Permanent, codes::PERMANENT, 1),
        (large, DeadReason::Permanent, codes::RESULT_TOO_LARGE, 1),
        (deep, DeadReason::Permanent, codes::RESULT_UNREADABLE, 1),
        (
            surrogate,
            DeadReason::Permanent,
            codes::RESULT_UNREADABLE,
            1,
        ),
    ] {
        let record = lane.becomes(id, JobState::Dead).await;
        assert_eq!(record.reason, Some(reason), "{record:?}");
        assert_eq!(record.failures.len(), attempts, "{record:?}");
        assert!(
            record
                .failures
                .iter()
                .all(|failure| failure.error.code == code),
            "{record:?}"
        );
    }
    let ended = lane.all_end(&good, DEADLINE).await;
    lane.account(&good, &ended, 0..=0);
    assert!(
        ended
            .values()
            .all(|record| record.state == JobState::Succeeded)
    );
    consumer.stop().await;
}

/// A consumer with a handler that panics, within the test.
struct InProcess {
    shutdown: tokio_util::sync::CancellationToken,
    consumer: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl InProcess {
    fn start(server: &NatsServer) -> Self {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let mut arguments = vec!["consumer".to_owned(), "--kinds=panic".to_owned()];
        for (variable, value) in server.env_for("worker") {
            let option = variable.to_lowercase().replace('_', "-");
            arguments.push(format!("--{option}={value}"));
        }
        let config = <consumer::Config as clap::Parser>::parse_from(arguments);
        let context =
            bootstrap::Context::new(consumer::ABOUT, config.options.clone(), shutdown.clone());
        let panics = async |(): ()| -> Result<(), consumer::Failure> { panic!("at the disco") };
        let handlers = consumer::Registry::new().with_fn("panic", panics);
        let consumer = tokio::spawn(consumer::serve(context, config, handlers));
        Self { shutdown, consumer }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.consumer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_consumer_runs_the_kinds_that_it_serves_and_the_others_wait_for_one_that_does() {
    let lane = Lane::start().await;
    let mut picky = lane.consumer("picky", &["--kinds", "mail.*,echo"]).await;
    let mail = lane.submit(json!({"kind": "mail.send"})).await;
    let note = lane.submit(json!({"kind": "note"})).await;
    let record = lane.becomes(mail, JobState::Succeeded).await;
    assert_eq!(record.consumer.as_deref(), Some("picky"));
    // Nobody serves it, and that can be seen.
    let warning = picky
        .wait_for_line(|line| line.contains("no consumer serves their kind"))
        .await;
    assert!(warning.contains("note"), "{warning}");
    let status = lane
        .fixture
        .status_of("picky", |status| !status.unserved_kinds.is_empty())
        .await;
    assert_eq!(status.unserved_kinds, ["note".parse().unwrap()]);
    assert!(lane.record(note).await.is_none());

    let _other = lane.consumer("other", &["--kinds", "note"]).await;
    let record = lane.becomes(note, JobState::Succeeded).await;
    assert_eq!(record.consumer.as_deref(), Some("other"));
    assert_eq!(lane.ledger().0.len(), 2);
}

#[tokio::test]
async fn a_record_keeps_the_job_and_its_payload_up_to_a_bound() {
    let lane = Lane::start().await;
    let kept = |record: &common::JobRecord| -> Value {
        let job = record.job.as_ref().unwrap();
        serde_json::from_str(job.get()).unwrap()
    };
    let mut keeping = lane.consumer("keeping", &[]).await;
    let small = lane
        .submit(json!({"kind": "note", "payload": {"n": 1}, "max_attempts": 2}))
        .await;
    let job = kept(&lane.becomes(small, JobState::Succeeded).await);
    assert_eq!(job["payload"], json!({"n": 1}));
    assert_eq!(job["max_attempts"], 2);
    // A larger payload is left out, and the options are kept.
    let large = lane
        .submit(json!({"kind": "note", "payload": "x".repeat(5000), "max_attempts": 2}))
        .await;
    let job = kept(&lane.becomes(large, JobState::Succeeded).await);
    assert_eq!(
        (&job["payload"], &job["max_attempts"]),
        (&Value::Null, &json!(2))
    );
    // One that nobody ran has ended, too.
    let hour = common::Timestamp::now().after(Duration::from_hours(1));
    let later = lane
        .submit(json!({"kind": "note", "payload": "later", "run_at": hour}))
        .await;
    lane.becomes(later, JobState::Scheduled).await;
    lane.cancel(later).await;
    let job = kept(&lane.becomes(later, JobState::Cancelled).await);
    assert_eq!(job["payload"], "later");
    stop(&mut keeping).await;

    let mut discreet = lane.consumer("discreet", &["--keep-payload", "0"]).await;
    let secret = lane
        .submit(json!({"kind": "note", "payload": "secret"}))
        .await;
    let job = kept(&lane.becomes(secret, JobState::Succeeded).await);
    assert_eq!(job["payload"], Value::Null);
    assert_eq!(job["kind"], "note");
    stop(&mut discreet).await;
}
