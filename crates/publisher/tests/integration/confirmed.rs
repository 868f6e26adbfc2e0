//! Jobs that are followed until they have ended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::{NatsServer, Stream};

use crate::support::{AT_ONCE, Responder, bulk, logged, run};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn job(more: &str) -> String {
    format!(r#"{{"id":"{ID}","kind":"a",{AT_ONCE}{more}}}"#)
}

#[tokio::test]
async fn each_job_is_answered_with_its_outcome() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let lines = [r#"{"kind":"a","payload":1}"#, r#"{"kind":"b"}"#, &job("")];
    let (code, outcomes, publisher) = run(bulk(&nats, &lines)).await;
    assert_eq!(code, 0);
    assert_eq!(outcomes.len(), 3);
    for (number, outcome) in (0..).zip(&outcomes) {
        assert_eq!(outcome["line"], number + 1);
        assert_eq!(outcome["status"], "succeeded");
        assert_eq!(outcome["consumer"], "scripted");
        assert_eq!(outcome["attempt"], 1);
        assert_eq!(outcome["result"], json!({"number": number}));
        assert!(outcome["elapsed_ms"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(outcomes[2]["id"], ID);
    let requests = responder.requests();
    assert!(requests.iter().all(|request| request.attempt.is_none()));
    assert_eq!(requests[2].payload, lines[2], "sent as it was written");
    let summary = logged(&publisher, "summary");
    assert!(
        summary.contains("submitted=3 succeeded=3 failed=0"),
        "{summary}"
    );
    let logs = publisher.lines();
    assert!(
        logs.iter()
            .all(|line| (line.stream == Stream::Stdout) == line.text.starts_with('{')),
        "{logs:?}"
    );
}

#[tokio::test]
async fn a_job_is_submitted_again_with_its_id_until_it_has_ended() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| match request.number {
        0 => Some(request.outcome("busy")),
        1 => Some(request.outcome("interrupted")),
        2 => None,
        _ => Some(request.outcome("succeeded")),
    })
    .await;
    let line = format!(r#"{{"kind":"a",{AT_ONCE}}}"#);
    let args = ["--confirm-timeout", "200ms"];
    let (code, outcomes, publisher) = run(bulk(&nats, &[line]).args(args)).await;
    assert_eq!((code, &outcomes[0]["status"]), (0, &json!("succeeded")));
    assert_eq!(outcomes[0]["attempt"], 3);
    let requests = responder.requests();
    let attempts: Vec<_> = requests.iter().map(|it| it.attempt.as_deref()).collect();
    assert_eq!(
        attempts,
        [None, None, Some("2"), Some("3")],
        "busy is no attempt"
    );
    for request in requests.iter() {
        assert_eq!(request.payload, requests[0].payload);
        assert_eq!(outcomes[0]["id"], request.id().to_string());
    }
    let summary = logged(&publisher, "summary");
    assert!(
        summary.contains("succeeded=1 ") && summary.contains("resubmitted=3"),
        "{summary}"
    );
}

/// Runs one job that is answered like this each time.
async fn one_job(line: String, args: &[&str], answer: AnswerTo) -> (i32, Value, usize) {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, move |request| {
        answer(&request.id().to_string()).map(|answer| answer.to_string())
    })
    .await;
    let (code, outcomes, _) = run(bulk(&nats, &[line]).args(args)).await;
    let count = responder.requests().len();
    (code, outcomes[0].clone(), count)
}

/// Makes the answer to a job with this id; `None` for no answer.
type AnswerTo = fn(id: &str) -> Option<Value>;

fn answer(id: &str, status: &str) -> Value {
    json!({
        "id": id, "status": status, "consumer": "scripted", "attempt": 1, "duration_ms": 0,
        "error": {"code": "why", "message": "so"},
    })
}

#[tokio::test]
async fn a_job_that_stays_undone_fails_after_its_last_attempt_with_the_reason() {
    let cases: [(&str, AnswerTo, &str); 2] = [
        (
            "interrupted",
            |id| Some(answer(id, "interrupted")),
            "so; given up after 5 attempts",
        ),
        (
            "timeout",
            |_| None,
            "no answer came in time; given up after 5 attempts",
        ),
    ];
    for (reason, answer, message) in cases {
        let args = ["--confirm-timeout", "50ms"];
        let (code, outcome, requests) = one_job(job(""), &args, answer).await;
        assert_eq!((code, requests), (1, 5), "{reason}");
        assert_eq!(
            (&outcome["status"], &outcome["attempt"]),
            (&json!("failed"), &json!(5))
        );
        assert_eq!(
            outcome["error"],
            json!({"code": reason, "message": message})
        );
    }
}

#[tokio::test]
async fn a_job_without_consumers_fails_with_the_reason() {
    let nats = NatsServer::start().await;
    let (code, outcomes, publisher) = run(bulk(&nats, &[job("")])).await;
    assert_eq!((code, &outcomes[0]["status"]), (1, &json!("failed")));
    assert_eq!(outcomes[0]["error"]["code"], "no_consumer");
    assert_eq!(outcomes[0].get("consumer"), None, "no consumer answered");
    assert_eq!(outcomes[0]["attempt"], 5);
    let line = logged(&publisher, "job failed");
    assert!(line.contains(ID) && line.contains("line=1"), "{line}");
    assert!(
        line.contains("no consumer was there to take it; given up after 5 attempts"),
        "{line}"
    );
    assert!(logged(&publisher, "jobs that did not succeed").contains("no_consumer 1"));
}

#[tokio::test]
async fn a_jobs_own_number_of_attempts_wins() {
    let args = ["--max-attempts", "50"];
    let line = job(r#","max_attempts":2"#);
    let interrupted: AnswerTo = |id| Some(answer(id, "interrupted"));
    let (code, outcome, requests) = one_job(line, &args, interrupted).await;
    assert_eq!((code, requests), (1, 2));
    assert_eq!(outcome["attempt"], 2);
    let (code, _, requests) = one_job(job(""), &["--max-attempts", "1"], interrupted).await;
    assert_eq!((code, requests), (1, 1));
}

#[tokio::test]
async fn any_other_outcome_is_final() {
    let cases: [(&str, AnswerTo); 3] = [
        ("failed", |id| Some(answer(id, "failed"))),
        ("rejected", |id| Some(answer(id, "rejected"))),
        ("expired", |id| Some(answer(id, "expired"))),
    ];
    for (status, answer) in cases {
        let (code, outcome, requests) = one_job(job(""), &[], answer).await;
        assert_eq!((code, requests), (1, 1), "{status}");
        assert_eq!(outcome["status"], status);
        assert_eq!(outcome["error"], json!({"code": "why", "message": "so"}));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_outcome_of_this_job_is_its_failure() {
    let cases: [AnswerTo; 3] = [
        |_| Some(json!("done")),
        |_| Some(json!({"status": "unheard_of"})),
        |_| Some(answer("01890a5d-ac96-774b-bcce-000000000000", "succeeded")),
    ];
    for answer in cases {
        let (code, outcome, requests) = one_job(job(""), &[], answer).await;
        assert_eq!((code, requests), (1, 1));
        assert_eq!(
            (&outcome["status"], &outcome["id"]),
            (&json!("failed"), &json!(ID))
        );
        assert_eq!(outcome["error"]["code"], "bad_answer");
    }
}

#[tokio::test]
async fn a_consumer_that_refuses_may_say_how_long_to_wait() {
    let nats = NatsServer::start().await;
    let _responder = Responder::start(&nats, |request| {
        let later = json!({"code": "busy", "message": "full", "retry_after_ms": 700});
        Some(match request.number {
            0 => request.refusal("busy", later),
            _ => request.outcome("succeeded"),
        })
    })
    .await;
    let start = Instant::now();
    let job = r#"{"kind":"a","backoff":{"initial":"1ms","max":"10s"}}"#;
    let (code, ..) = run(bulk(&nats, &[job])).await;
    assert_eq!(code, 0);
    assert!(start.elapsed() >= Duration::from_millis(700));
}

#[tokio::test]
async fn no_consumer_makes_a_job_wait_longer_than_its_backoff_allows() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| {
        let never = json!({"code": "full", "message": "full", "retry_after_ms": u64::MAX});
        Some(match request.number {
            0 => request.refusal("busy", never),
            1 => request.refusal("interrupted", never),
            _ => request.outcome("succeeded"),
        })
    })
    .await;
    let (code, ..) = run(bulk(&nats, &[job("")])).await;
    assert_eq!((code, responder.requests().len()), (0, 3));
}

#[tokio::test]
async fn a_job_is_not_submitted_again_after_its_deadline() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("busy"))).await;
    let soon = std::time::SystemTime::now() + Duration::from_secs(1);
    let deadline = humantime::format_rfc3339_millis(soon);
    let more = format!(r#","deadline":"{deadline}","max_attempts":1"#);
    let waits = format!(
        r#"{{"id":"{ID}","kind":"a","backoff":{{"initial":"100ms","max":"100ms"}}{more}}}"#
    );
    let passed = r#"{"kind":"a","deadline":"2026-01-31T09:30:00Z"}"#.to_owned();
    let (code, outcomes, _) = run(bulk(&nats, &[waits, passed])).await;
    assert_eq!(code, 1);
    for outcome in &outcomes {
        assert_eq!(outcome["status"], "expired");
        assert_eq!(outcome["error"]["code"], "expired");
    }
    let requests = responder.requests();
    let of_first = requests
        .iter()
        .filter(|it| it.id().to_string() == ID)
        .count();
    assert!((2..100).contains(&of_first), "{of_first}");
    assert_eq!(
        requests.len(),
        of_first + 1,
        "asked once: the consumer decides at first"
    );
}

#[tokio::test]
async fn an_answer_that_comes_late_still_counts() {
    let nats = NatsServer::start().await;
    let mut first = None;
    let (late, mut second) = tokio::sync::mpsc::unbounded_channel();
    let responder = Responder::start(&nats, move |request| {
        let Some((reply, outcome)) = first.take() else {
            first = Some((request.reply.clone(), request.outcome("succeeded")));
            return None;
        };
        let _ = late.send((reply, outcome));
        None
    })
    .await;
    let args = ["--confirm-timeout", "300ms", "--max-attempts", "2"];
    let publisher = bulk(&nats, &[job("")]).args(args);
    let answer = async {
        let (reply, outcome): (Option<String>, String) = second.recv().await.unwrap();
        let client = &responder.client;
        client
            .publish(reply.unwrap(), outcome.into())
            .await
            .unwrap();
    };
    let ((), (code, outcomes, _)) = tokio::join!(answer, run(publisher));
    assert_eq!((code, &outcomes[0]["status"]), (0, &json!("succeeded")));
    assert_eq!(outcomes[0]["attempt"], 1, "the first attempt was answered");
    assert_eq!(responder.requests().len(), 2);
}

#[tokio::test]
async fn a_long_job_is_waited_for_as_long_as_it_may_run() {
    let nats = NatsServer::start().await;
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let responder = Responder::start(&nats, move |request| {
        let short = request.id().to_string() != ID;
        // The short job has timed out so often that the long one would have, too.
        if !short || request.number == 10 {
            let _ = ask.send((request.reply.clone(), request.outcome("succeeded")));
        }
        None
    })
    .await;
    let lines = [
        job(r#","timeout":"30s""#),
        format!(r#"{{"kind":"a",{AT_ONCE}}}"#),
    ];
    let args = ["--confirm-timeout", "50ms", "--max-attempts", "100"];
    let publisher = bulk(&nats, &lines).args(args);
    let answer = async {
        let (long, short) = (asked.recv().await.unwrap(), asked.recv().await.unwrap());
        for (reply, outcome) in [long, short] {
            let client = &responder.client;
            client
                .publish(reply.unwrap(), outcome.into())
                .await
                .unwrap();
        }
    };
    let ((), (code, ..)) = tokio::join!(answer, run(publisher));
    assert_eq!(code, 0);
    let requests = responder.requests();
    let of_long = requests.iter().filter(|it| it.id().to_string() == ID);
    assert_eq!(of_long.count(), 1, "it was submitted again while it ran");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_is_sent() {
    let nats = NatsServer::builder()
        .config("max_payload: 4096")
        .start()
        .await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let large = |bytes: usize| format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(bytes));
    let lines = [large(100), large(4_200), large(9_000), large(3_900)];
    let (code, outcomes, _) = run(bulk(&nats, &lines)).await;
    assert_eq!(code, 1);
    let statuses: Vec<_> = outcomes.iter().map(|it| it["status"].clone()).collect();
    assert_eq!(statuses, ["succeeded", "failed", "rejected", "succeeded"]);
    assert_eq!(outcomes[1]["error"]["code"], "too_large");
    let message = outcomes[1]["error"]["message"].as_str().unwrap();
    assert!(
        message.ends_with(" bytes, and the server takes 4096 (max_payload)"),
        "{message}"
    );
    let message = outcomes[2]["error"]["message"].as_str().unwrap();
    assert!(message.contains("more than 5120 bytes"), "{message}");
    assert_eq!(responder.requests().len(), 2);
}

#[tokio::test]
async fn a_message_without_room_for_a_header_is_submitted_again_without() {
    let nats = NatsServer::builder()
        .config("max_payload: 4096")
        .start()
        .await;
    let responder = Responder::start(&nats, |request| {
        Some(request.outcome(if request.number == 0 {
            "busy"
        } else {
            "succeeded"
        }))
    })
    .await;
    let line = job(r#","payload":"""#);
    let payload = format!(r#""payload":"{}""#, "x".repeat(4_096 - line.len()));
    let (code, ..) = run(bulk(&nats, &[line.replace(r#""payload":"""#, &payload)])).await;
    assert_eq!(code, 0);
    let requests = responder.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests
            .iter()
            .all(|it| it.payload.len() == 4_096 && it.attempt.is_none())
    );
}
