//! Every request gets an outcome, and bad input gets a clear one.

use common::{Status, codes, subjects};
use futures_util::StreamExt as _;
use test_support::{DEADLINE, eventually};

use crate::fixture::{Fixture, code};

#[tokio::test]
async fn the_built_in_handlers_do_what_they_say() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer(&[]).await;

    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let echo = fixture
        .outcome(&format!(
            r#"{{"kind":"echo","id":"{id}","payload":{{"a": [1, 1e400]}}}}"#
        ))
        .await;
    assert_eq!((echo.status, echo.id), (Status::Succeeded, id.parse().ok()));
    assert_eq!(echo.result.unwrap().get(), r#"{"a": [1, 1e400]}"#);
    assert_eq!(echo.attempt, 1);

    let hash = fixture
        .outcome(r#"{"kind":"sha256","payload":{"text":"abc"}}"#)
        .await;
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        hash.result.unwrap().get(),
        format!(r#"{{"hex":"{expected}"}}"#)
    );
    assert!(hash.id.is_some(), "a job without an id was given none");

    let sleep = fixture
        .outcome(r#"{"kind":"sleep","payload":{"ms":50}}"#)
        .await;
    assert!(
        sleep.status == Status::Succeeded && sleep.duration_ms >= 50.0,
        "{sleep:?}"
    );

    let fail = fixture
        .outcome(r#"{"kind":"fail","payload":{"message":"no\nway"}}"#)
        .await;
    assert_eq!(
        (fail.status, code(&fail)),
        (Status::Failed, codes::TRANSIENT)
    );
    assert_eq!(fail.error.unwrap().message, "no\nway");
    let fail = fixture
        .outcome(r#"{"kind":"fail","payload":{"permanent":true}}"#)
        .await;
    assert_eq!(
        (fail.status, code(&fail)),
        (Status::Failed, codes::PERMANENT)
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "most of it is one table")]
async fn bad_input_is_refused_by_name_and_costs_nothing_else() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&["--concurrency", "1"]).await;

    let deep = format!(
        r#"{{"kind":"echo","payload":{}1{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let cases: &[(&[u8], Status, &str, &str)] = &[
        (b"", Status::Rejected, codes::INVALID_JSON, "not JSON"),
        (
            b"\x00\xff\xfe",
            Status::Rejected,
            codes::INVALID_JSON,
            "not JSON",
        ),
        (
            br#"{"kind":"echo""#,
            Status::Rejected,
            codes::INVALID_JSON,
            "not JSON",
        ),
        (
            br#"["echo"]"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "a job is an object",
        ),
        (
            br#"{"kind":"echo","max_atempts":1}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "max_atempts",
        ),
        (
            br#"{"kind":"a..b"}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`kind`",
        ),
        (
            br#"{"kind":"$JS.API"}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`kind`",
        ),
        (
            br#"{"kind":"echo","id":"../../x"}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`id`",
        ),
        (
            br#"{"kind":"echo","timeout":"0s"}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`timeout`",
        ),
        (
            br#"{"kind":"echo","max_attempts":0}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`max_attempts`",
        ),
        (
            br#"{"kind":"echo","run_at":"2200-01-01T00:00:00Z"}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`run_at`",
        ),
        (
            br#"{"kind":"echo","deadline":"2001-01-01T00:00:00Z"}"#,
            Status::Expired,
            codes::EXPIRED,
            "`deadline`",
        ),
        (
            br#"{"kind":"nobody.knows"}"#,
            Status::Rejected,
            codes::UNKNOWN_KIND,
            "nobody.knows",
        ),
        (
            br#"{"kind":"sha256","payload":{"text":[]}}"#,
            Status::Rejected,
            codes::INVALID_PAYLOAD,
            "`payload.text`",
        ),
        (
            br#"{"kind":"echo","payload":{"text":"\ud800"}}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "field `payload`: a string has an unpaired surrogate",
        ),
        (
            br#"{"kind":"echo","max_attempts":1e400}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "`max_attempts`",
        ),
        (
            br#"{"kind":"echo","payload":1,"payload":2}"#,
            Status::Rejected,
            codes::INVALID_JOB,
            "duplicate field `payload`",
        ),
        (
            br#"{"kind":"sleep"}"#,
            Status::Rejected,
            codes::INVALID_PAYLOAD,
            "`payload`",
        ),
        (
            br#"{"kind":"sleep","payload":{"ms":1,"s":1}}"#,
            Status::Rejected,
            codes::INVALID_PAYLOAD,
            "`s`",
        ),
        (
            deep.as_bytes(),
            Status::Rejected,
            codes::INVALID_JOB,
            "field `payload`: nested deeper than 128 levels",
        ),
        (
            br#"{"kind":"sleep","payload":{"ms":60000},"timeout":"50ms"}"#,
            Status::Failed,
            codes::TIMEOUT,
            "50ms",
        ),
    ];
    for (job, status, expected_code, named) in cases {
        let shown = String::from_utf8_lossy(&job[..job.len().min(80)]);
        let outcome = fixture.outcome_on(subjects::CREATE, job).await;
        assert_eq!(
            (outcome.status, code(&outcome)),
            (*status, *expected_code),
            "{shown}"
        );
        let message = outcome.error.unwrap().message;
        assert!(message.contains(named), "{shown}: {message}");
        // The next one is served as if nothing had been.
        let good = fixture.outcome(r#"{"kind":"echo","payload":7}"#).await;
        assert_eq!(good.result.unwrap().get(), "7", "after {shown}");
    }

    let status = fixture.status(|_| true).await;
    assert_eq!(status.totals.processed, 2 * cases.len() as u64);
    assert_eq!(status.totals.expired, 1);
    assert_eq!(status.totals.failed, 1);
    consumer.signal(test_support::Signal::SIGTERM);
    assert_eq!(consumer.wait().await.code(), Some(0));
    assert!(consumer.stderr().is_empty(), "{:?}", consumer.stderr());
}

#[tokio::test]
async fn the_deepest_payload_comes_back_and_a_deeper_one_is_refused_on_each_subject() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer(&[]).await;
    let job = |levels: usize| {
        let payload = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        (format!(r#"{{"kind":"echo","payload":{payload}}}"#), payload)
    };
    for subject in [subjects::CREATE, "jobs.create.echo"] {
        let (deepest, payload) = job(128);
        let outcome = fixture.outcome_on(subject, deepest.as_bytes()).await;
        assert_eq!(outcome.result.unwrap().get(), payload, "{subject}");
        for levels in [129, 20_000] {
            let (deeper, _) = job(levels);
            let outcome = fixture.outcome_on(subject, deeper.as_bytes()).await;
            assert_eq!(
                (outcome.status, code(&outcome)),
                (Status::Rejected, codes::INVALID_JOB),
                "{subject} {levels}"
            );
        }
    }
}

#[tokio::test]
async fn the_sender_sees_the_wrong_value_of_a_payload_and_the_log_does_not() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&[]).await;
    let secret = format!("hunter2{}", "x".repeat(10_000));
    let job = format!(r#"{{"kind":"sleep","payload":{{"ms":"{secret}"}}}}"#);
    let outcome = fixture.outcome(&job).await;
    assert_eq!(
        (outcome.status, code(&outcome)),
        (Status::Rejected, codes::INVALID_PAYLOAD)
    );
    let message = outcome.error.unwrap().message;
    assert!(
        message.contains("hunter2") && message.len() < 5_000,
        "{message}"
    );
    let line = consumer
        .wait_for_line(|line| line.contains("job rejected"))
        .await;
    assert!(
        line.contains("field `payload.ms`") && !line.contains("hunter2"),
        "{line}"
    );
}

#[tokio::test]
async fn an_outcome_over_the_message_limit_is_a_clear_failure() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer(&[]).await;
    // The outcome repeats the payload, and adds more than the job has around it.
    let limit = fixture.publisher.max_payload();
    let payload = "x".repeat(limit - 40);
    let outcome = fixture
        .outcome(&format!(r#"{{"kind":"echo","payload":"{payload}"}}"#))
        .await;
    assert_eq!(
        (outcome.status, code(&outcome)),
        (Status::Failed, codes::RESULT_TOO_LARGE)
    );
    assert!(outcome.error.unwrap().message.contains(&limit.to_string()));
}

#[tokio::test]
async fn the_attempt_number_of_the_publisher_is_repeated_and_counted() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer(&[]).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(subjects::ATTEMPT_HEADER, "3");
    let answer = fixture
        .publisher
        .request_with_headers(subjects::CREATE, headers, r#"{"kind":"echo"}"#.into())
        .await
        .unwrap();
    let outcome: common::Outcome = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(outcome.attempt, 3);
    assert_eq!(fixture.status(|_| true).await.totals.retried, 1);
}

#[tokio::test]
async fn a_plain_publish_is_run_and_never_answered() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer(&[]).await;
    let mut everything = fixture
        .publisher
        .subscribe("_INBOX_publisher.>")
        .await
        .unwrap();
    for job in [
        r#"{"kind":"echo"}"#,
        "garbage",
        r#"{"kind":"nobody.knows"}"#,
    ] {
        fixture
            .publisher
            .publish(subjects::CREATE, job.into())
            .await
            .unwrap();
    }
    fixture.status(|status| status.totals.processed == 3).await;
    // The answer to this request is the first message that any inbox of this user received.
    let answer = fixture
        .outcome(r#"{"kind":"echo","payload":"marker"}"#)
        .await;
    assert_eq!(answer.result.unwrap().get(), r#""marker""#);
    let first = everything.next().await.unwrap();
    assert!(
        first.payload.windows(6).any(|window| window == b"marker"),
        "{first:?}"
    );
}

#[tokio::test]
async fn an_outcome_is_not_sent_into_the_subjects_of_the_system() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&[]).await;
    let job = r#"{"kind":"echo","payload":"loop"}"#;
    fixture
        .publisher
        .publish_with_reply(subjects::CREATE, "jobs.create.echo", job.into())
        .await
        .unwrap();
    consumer
        .wait_for_line(|line| line.contains("not an inbox"))
        .await;
    let status = fixture.status(|status| status.totals.processed >= 1).await;
    assert_eq!((status.totals.succeeded, status.received), (1, 1));
}

#[tokio::test]
async fn a_user_without_rights_cannot_hand_over_jobs() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer(&[]).await;
    let stranger = fixture.server.connect_as("status").await;
    for subject in [subjects::CREATE, "jobs.create.echo"] {
        stranger
            .publish(subject, r#"{"kind":"echo"}"#.into())
            .await
            .unwrap();
    }
    stranger.flush().await.unwrap();
    eventually(DEADLINE, "the server's refusal", async || {
        let log = fixture.server.log();

        let refused = |subject| {
            log.lines().any(|line| {
                line.contains("user:status")
                    && line.ends_with(&format!("Publish Violation - Subject \"{subject}\""))
            })
        };
        (refused("jobs.create") && refused("jobs.create.echo")).then_some(())
    })
    .await;
    fixture.outcome(r#"{"kind":"echo"}"#).await;
    assert_eq!(fixture.status(|_| true).await.received, 1);
}
