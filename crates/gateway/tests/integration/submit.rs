//! What is answered to a submission.

use reqwest::Method;
use serde_json::{Value, json};
use test_support::NatsServer;

use crate::support::{Gateway, answer_with, consumer, send, streams_without_consumer};

#[tokio::test]
async fn a_durable_job_is_stored_and_its_place_is_told() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let answer = gateway
        .post("/v1/jobs", r#"{"kind":"echo","payload":7}"#)
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let place = answer.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(place, format!("/v1/jobs/{}", answer.id()));
    assert_eq!(answer.json()["known"], false);
    let job = gateway.get(&place).await.json();
    assert_eq!(
        (&job["state"], &job["kind"]),
        (&json!("queued"), &json!("echo"))
    );
}

#[tokio::test]
async fn a_job_that_is_waited_for_is_answered_with_its_end() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let job = r#"{"kind":"echo","payload":{"n":12345678901234567890123}}"#;
    // A quick job may have ended before the wait begins, and must not be missed then.
    for _ in 0..20 {
        let answer = gateway.post("/v1/jobs?wait=1m", job).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["state"], "succeeded");
        assert!(
            answer.text.contains("12345678901234567890123"),
            "{answer:?}"
        );
    }
    let answer = gateway.post("/v1/jobs?delivery=confirmed", job).await;
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &json!("succeeded"))
    );
    let answer = gateway.post("/v1/jobs?delivery=fire-and-forget", job).await;
    assert_eq!(answer.status, 202);
    assert!(!answer.headers.contains_key("location"));
}

#[tokio::test]
async fn a_wait_that_ends_first_leaves_the_job_accepted() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let answer = gateway
        .post("/v1/jobs?wait=50ms", r#"{"kind":"echo"}"#)
        .await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (202, &json!("queued"))
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_told_with_its_field() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let later = r#"{"kind":"a","run_at":"2099-01-01T00:00:00Z"}"#;
    let cases = [
        ("/v1/jobs", r#"{"kind":"#, 400, None),
        ("/v1/jobs", "", 400, None),
        ("/v1/jobs", "[1,", 400, None),
        ("/v1/jobs", "[]", 400, None),
        ("/v1/jobs", r#"{"kind":"a b"}"#, 422, Some("kind")),
        ("/v1/jobs", r#"{"payload":1}"#, 422, Some("kind")),
        (
            "/v1/jobs",
            r#"{"kind":"a","prioritty":"low"}"#,
            422,
            Some("prioritty"),
        ),
        ("/v1/jobs", r#"{"kind":"a","id":"7"}"#, 422, Some("id")),
        ("/v1/jobs?wait=1h", r#"{"kind":"a"}"#, 400, Some("wait")),
        ("/v1/jobs?wait=soon", r#"{"kind":"a"}"#, 400, Some("wait")),
        (
            "/v1/jobs?delivery=pigeon",
            r#"{"kind":"a"}"#,
            400,
            Some("delivery"),
        ),
        ("/v1/jobs?dely=1", r#"{"kind":"a"}"#, 400, Some("dely")),
        ("/v1/jobs?delivery=confirmed", later, 422, Some("run_at")),
        (
            "/v1/jobs?delivery=fire-and-forget&wait=1s",
            r#"{"kind":"a"}"#,
            400,
            Some("wait"),
        ),
        (
            "/v1/jobs?all_or_none=true",
            r#"{"kind":"a"}"#,
            400,
            Some("all_or_none"),
        ),
    ];
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let deep = format!(r#"{{"kind":"a","payload":{deep}}}"#);
    let half = r#"{"kind":"a","payload":"\ud800"}"#;
    let unreadable = [
        "durable",
        "confirmed",
        "fire-and-forget",
        "durable&all_or_none=true",
    ];
    for delivery in unreadable {
        let path = format!("/v1/jobs?delivery={delivery}");
        for job in [&*deep, half] {
            let many = [job, r#"{"kind":"a"}"#].join(",");
            let (body, field) = if delivery.contains("all_or_none") {
                (format!("[{many}]"), "[0].payload")
            } else {
                (job.to_owned(), "payload")
            };
            let answer = gateway.post(&path, &body).await;
            let expected = (422, Some(field.to_owned()));
            assert_eq!(answer.problem(), expected, "{path}: {answer:?}");
        }
    }
    for (path, body, status, field) in cases {
        let answer = gateway.post(path, body).await;
        let field = field.map(str::to_owned);
        assert_eq!(
            answer.problem(),
            (status, field),
            "{path} {body}: {answer:?}"
        );
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let request = gateway.request(Method::POST, "/v1/jobs");
        let request = request.header("content-type", kind).body(r#"{"kind":"a"}"#);
        assert_eq!(send(request).await.problem().0, 415, "{kind}");
    }
    let request = gateway
        .request(Method::POST, "/v1/jobs")
        .body(r#"{"kind":"a"}"#);
    assert_eq!(send(request).await.problem().0, 415);
}

#[tokio::test]
async fn a_key_makes_one_job_of_repetitions_on_any_gateway_and_after_the_job_is_done() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let (one, other) = (Gateway::start(&nats).await, Gateway::start(&nats).await);
    let submit = async |gateway: &Gateway, key: &str, query: &str, body: &str| {
        let request = gateway.posting(&format!("/v1/jobs{query}"), body);
        send(request.header("idempotency-key", key)).await
    };
    let job = r#"{"kind":"echo","payload":1}"#;
    let first = submit(&one, "order-17", "?wait=1m", job).await;
    assert_eq!(
        (first.status, &first.json()["known"]),
        (200, &json!(false)),
        "{first:?}"
    );
    for gateway in [&one, &other] {
        let again = submit(gateway, "order-17", "?wait=1m", job).await;
        assert_eq!(
            (again.status, &again.json()["known"]),
            (200, &json!(true)),
            "{again:?}"
        );
        assert_eq!(again.json()["at"], first.json()["at"]);
    }
    other.stop().await;
    let other = Gateway::start(&nats).await;
    let again = submit(&other, "order-17", "", job).await;
    assert_eq!((again.status, &again.json()["known"]), (202, &json!(true)));
    assert_eq!(again.id(), first.id());

    // A UUID is the id itself, and the body may name the same.
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let body = format!(r#"{{"kind":"echo","id":"{id}"}}"#);
    assert_eq!(submit(&one, id, "", &body).await.id(), id);
    let clash = submit(&one, "order-18", "", &body).await;
    assert_eq!(clash.problem(), (422, Some("id".to_owned())));
    let long = submit(&one, &"x".repeat(256), "", job).await;
    assert_eq!(long.problem(), (400, Some("Idempotency-Key".to_owned())));
}

#[tokio::test]
async fn a_key_that_was_used_for_another_request_is_refused_while_its_job_waits_and_after_it() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let submit = async |query: &str, payload: u32| {
        let body = format!(r#"{{"kind":"echo","payload":{payload}}}"#);
        let request = gateway.posting(&format!("/v1/jobs{query}"), &body);
        send(request.header("idempotency-key", "order-17")).await
    };
    let refused = (422, Some("Idempotency-Key".to_owned()));
    assert_eq!(submit("", 1).await.status, 202);
    assert_eq!(submit("", 2).await.problem(), refused);
    assert_eq!(submit("", 1).await.json()["known"], json!(true));
    let _consumer = consumer(&nats, &[]).await;
    let ended = submit("?wait=1m", 1).await;
    assert_eq!((ended.status, &ended.json()["result"]), (200, &json!(1)));
    assert_eq!(submit("", 2).await.problem(), refused);
}

#[tokio::test]
async fn the_same_id_submitted_at_once_on_two_gateways_is_one_job() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let (one, other) = (Gateway::start(&nats).await, Gateway::start(&nats).await);
    let post = |gateway: &Gateway| {
        let request = gateway.posting("/v1/jobs", r#"{"kind":"echo"}"#);
        send(request.header("idempotency-key", "twins"))
    };
    let (one, other) = tokio::join!(post(&one), post(&other));
    let known: Vec<Value> = [&one, &other]
        .map(|answer| answer.json()["known"].clone())
        .into();
    assert_eq!(one.id(), other.id());
    assert!(
        known.contains(&json!(true)) && known.contains(&json!(false)),
        "{known:?}"
    );
}

#[tokio::test]
async fn a_confirmed_job_that_nobody_takes_is_to_be_submitted_again() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let path = "/v1/jobs?delivery=confirmed";
    let answer = gateway.post(path, r#"{"kind":"echo"}"#).await;
    assert_eq!(answer.problem().0, 503);
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");

    let busy = json!({
        "status": "busy", "consumer": "c", "attempt": 1, "duration_ms": 0,
        "error": {"code": "busy", "message": "the consumer is full", "retry_after_ms": 7000},
    });
    let _worker = answer_with(&nats, busy).await;
    let answer = gateway.post(path, r#"{"kind":"echo"}"#).await;
    assert_eq!(answer.problem().0, 503);
    assert_eq!(answer.headers["retry-after"], "7");
}

#[tokio::test]
async fn a_confirmed_job_without_an_outcome_in_time_is_in_doubt() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let job = r#"{"kind":"sleep","payload":{"ms":60000}}"#;
    let answer = gateway
        .post("/v1/jobs?delivery=confirmed&wait=50ms", job)
        .await;
    assert_eq!(answer.problem().0, 504);
    assert!(answer.json()["id"].is_string());
}

#[tokio::test]
async fn without_a_stream_the_consumers_are_said_to_be_away() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let answer = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await;
    assert_eq!(answer.problem().0, 503, "{answer:?}");
    assert!(answer.text.contains("a consumer creates it"), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_job_stays_in_the_trace_of_its_request_and_what_is_no_trace_is_left_out() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let operator = nats.connect_as("operator").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (parent, kept) in [(trace, Some(trace)), ("00-not-a-trace", None)] {
        let request = gateway.posting("/v1/jobs", r#"{"kind":"echo"}"#);
        let id = send(request.header("traceparent", parent)).await.id();
        let last = json!({"last_by_subj": format!("jobs.durable.{id}.>")});
        let last = operator.request("$JS.API.DIRECT.GET.JOBS", last.to_string().into());
        let headers = last.await.unwrap().headers.unwrap();
        let stored = headers.get("traceparent").map(ToString::to_string);
        assert_eq!(stored.as_deref(), kept);
    }
}
