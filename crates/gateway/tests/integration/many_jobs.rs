//! Many jobs in one request.

use reqwest::Method;
use serde_json::{Value, json};
use test_support::NatsServer;

use crate::support::{Answer, Gateway, consumer, send, streams_without_consumer};

async fn lines(gateway: &Gateway, path: &str, body: String) -> Answer {
    let request = gateway.request(Method::POST, path);
    send(
        request
            .header("content-type", "application/x-ndjson")
            .body(body),
    )
    .await
}

/// How many jobs are in the queue.
async fn queued(client: &async_nats::Client) -> u64 {
    let streams = client::streams(&client.clone().into())
        .await
        .unwrap()
        .unwrap();
    let mut jobs = streams
        .iter()
        .filter(|it| it.stream == client::Stream::Jobs);
    jobs.next().unwrap().messages
}

#[tokio::test]
async fn each_of_many_jobs_is_answered_in_its_place() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let body = (0..5000).map(|n| match n % 1000 {
        999 => "{\"kind\":\"a b\"}\n".to_owned(),
        _ => format!("{{\"kind\":\"echo\",\"payload\":{n}}}\n\n"),
    });
    let answer = lines(&gateway, "/v1/jobs", body.collect()).await;
    assert_eq!(answer.status, 207, "{}", &answer.text[..200]);
    let body = answer.json();
    assert_eq!(
        (&body["accepted"], &body["refused"]),
        (&json!(4995), &json!(5))
    );
    for (place, job) in body["jobs"].as_array().unwrap().iter().enumerate() {
        let expected = if place % 1000 == 999 { 422 } else { 202 };
        assert_eq!(job["status"], expected, "{place}: {job}");
    }
    let admin = nats.connect_as("admin").await;
    assert_eq!(queued(&admin).await, 4995);
}

#[tokio::test]
async fn an_array_can_be_waited_for() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let jobs =
        json!([{"kind": "echo", "payload": 1}, {"kind": "fail", "payload": {"permanent": true}}]);
    let answer = gateway.post("/v1/jobs?wait=1m", &jobs.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let states = |body: &Value| {
        [&body["jobs"][0], &body["jobs"][1]].map(|job| job["record"]["state"].clone())
    };
    assert_eq!(states(&answer.json()), [json!("succeeded"), json!("dead")]);
    let answer = gateway
        .post("/v1/jobs?delivery=confirmed", &jobs.to_string())
        .await;
    assert_eq!(
        answer.json()["jobs"][1]["outcome"]["status"],
        "failed",
        "{answer:?}"
    );
    let too_many = vec![json!({"kind": "echo"}); 101];
    let answer = gateway
        .post("/v1/jobs?wait=1m", &json!(too_many).to_string())
        .await;
    assert_eq!(answer.problem(), (400, Some("wait".to_owned())));
}

#[tokio::test]
async fn where_no_job_is_taken_the_answer_is_no_success() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let wrong = json!([{"kind": "a b"}, {"kind": "echo", "timeout": "soon"}]);
    let answer = gateway.post("/v1/jobs", &wrong.to_string()).await;
    assert_eq!(answer.problem(), (422, Some("[0].kind".to_owned())));
    let good = json!([{"kind": "echo"}, {"kind": "echo"}]);
    let path = "/v1/jobs?delivery=confirmed";
    let answer = gateway.post(path, &good.to_string()).await;
    assert_eq!(answer.problem().0, 503);
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

#[tokio::test]
async fn an_id_whose_job_has_ended_is_known_too() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let id = gateway
        .post("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#)
        .await
        .id();
    let jobs = json!([{"kind": "echo"}, {"kind": "echo", "id": id}]);
    let path = "/v1/jobs?all_or_none=true";
    let answer = gateway.post(path, &jobs.to_string()).await;
    assert_eq!(answer.problem().0, 409, "{answer:?}");
    let answer = gateway.post("/v1/jobs", &jobs.to_string()).await;
    let known: Vec<_> = answer.json()["jobs"].as_array().unwrap().clone();
    let known = known.iter().map(|job| job["known"].as_bool().unwrap());
    assert_eq!(known.collect::<Vec<_>>(), [false, true], "{answer:?}");
}

#[tokio::test]
async fn all_are_stored_or_none() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let path = "/v1/jobs?all_or_none=true";
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let wrong = json!([{"kind": "echo"}, {"kind": "echo", "timeout": "soon"}]);
    let answer = gateway.post(path, &wrong.to_string()).await;
    assert_eq!(answer.problem(), (422, Some("[1].timeout".to_owned())));
    let good = json!([{"kind": "echo"}, {"kind": "echo", "id": id}]);
    let answer = gateway.post(path, &good.to_string()).await;
    assert_eq!(
        (answer.status, &answer.json()["accepted"]),
        (202, &json!(2))
    );
    let answer = gateway.post(path, &good.to_string()).await;
    assert_eq!(answer.problem().0, 409);
    let twice = json!([{"kind": "echo", "id": id}, {"kind": "echo", "id": id}]);
    assert_eq!(
        gateway.post(path, &twice.to_string()).await.problem().0,
        422
    );
    let admin = nats.connect_as("admin").await;
    assert_eq!(queued(&admin).await, 2);
}
