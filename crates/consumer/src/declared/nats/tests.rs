use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::service::ServiceExt as _;
use async_nats::service::error::Error as ServiceError;
use bootstrap::trace::TraceContext;
use common::JobId;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn attempt() -> Attempt {
    Attempt {
        id: JobId::generate(),
        number: 3,
        timeout: DEADLINE,
        trace: TraceContext::read(PARENT, Some("vendor=1")).map(Arc::new),
        cancelled: None,
    }
}

fn handler(client: &async_nats::Client, declaration: &str) -> Nats {
    let declaration: Declaration = toml::from_str(declaration).unwrap();
    declaration.handler(
        "test.nats".parse().unwrap(),
        Arc::new(NatsClient::from(client.clone()).into()),
    )
}

async fn run(handler: &Nats, payload: &Value) -> Result<String, (&'static str, String)> {
    let payload = serde_json::value::to_raw_value(payload).unwrap();
    let call = handler.call(Some(&payload), attempt(), true);
    match timeout(DEADLINE, call).await.expect("it ends in time") {
        Ok(result) => Ok(result.map_or_else(|| "nothing".to_owned(), |it| it.get().to_owned())),
        Err(CallError::InvalidPayload(text)) => panic!("{text}"),
        Err(CallError::Failed(failure @ Failure::Permanent(_))) => {
            Err(("permanent", failure.to_string()))
        }
        Err(CallError::Failed(failure)) => Err(("transient", failure.to_string())),
    }
}

/// A micro service that answers with what its request says: a text to return, or a code to fail
/// with.
async fn start_service(client: &async_nats::Client) {
    let service = client
        .service_builder()
        .start("worker", "1.0.0")
        .await
        .unwrap();
    let mut endpoint = service.endpoint("handlers.test").await.unwrap();
    tokio::spawn(async move {
        let _service = service;
        while let Some(request) = endpoint.next().await {
            let asked: Value = serde_json::from_slice(&request.message.payload).unwrap();
            let answer = match asked["code"].as_u64() {
                Some(code) => Err(ServiceError {
                    code: usize::try_from(code).unwrap(),
                    status: "no\x1b room".to_owned(),
                }),
                None => Ok(asked["answer"].as_str().unwrap().to_owned().into()),
            };
            request.respond(answer).await.unwrap();
        }
    });
    client.flush().await.unwrap();
}

#[tokio::test]
async fn a_micro_service_runs_the_jobs() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    start_service(&client).await;
    let handler = handler(&client, "nats = \"handlers.test\"");
    assert_eq!(
        run(&handler, &json!({"answer": "{\"a\": [1]}"}))
            .await
            .unwrap(),
        "{\"a\": [1]}"
    );
    assert_eq!(
        run(&handler, &json!({"answer": "plain"})).await.unwrap(),
        "\"plain\""
    );
    assert_eq!(run(&handler, &json!({"answer": ""})).await.unwrap(), "null");
    assert!(
        handler
            .call(
                RawValue::from_string("{\"answer\":\"1\"}".to_owned())
                    .ok()
                    .as_deref(),
                attempt(),
                false
            )
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn the_code_of_an_error_says_whether_a_repetition_may_help() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    start_service(&client).await;
    let handler = handler(&client, "nats = \"handlers.test\"");
    for (code, way) in [
        (400, "permanent"),
        (404, "permanent"),
        (408, "transient"),
        (425, "transient"),
        (429, "transient"),
        (499, "permanent"),
        (500, "transient"),
        (503, "transient"),
        (7, "transient"),
    ] {
        let (actual, error) = run(&handler, &json!({"code": code})).await.unwrap_err();
        let expected = format!("the service on handlers.test failed: {code} no\u{fffd} room");
        assert_eq!((actual, error), (way, expected));
    }
}

#[tokio::test]
async fn a_service_gets_the_job_in_headers() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    let mut requests = client.subscribe("handlers.test").await.unwrap();
    client.flush().await.unwrap();
    let handler = handler(&client, "nats = \"handlers.test\"\nresult = \"none\"");
    let attempt = attempt();
    let answering = async {
        let request = requests.next().await.unwrap();
        client
            .publish(request.reply.clone().unwrap(), "\u{1f600}".into())
            .await
            .unwrap();
        request
    };
    let (result, request) = tokio::join!(handler.call(None, attempt.clone(), true), answering);
    assert!(result.unwrap().is_none());
    assert_eq!(request.payload, "null");
    let headers = request.headers.unwrap();
    let header = |name| headers.get(name).unwrap().as_str().to_owned();
    assert_eq!(header("Jobs-Id"), attempt.id.to_string());
    assert_eq!(header("Jobs-Attempt"), "3");
    assert_eq!(header("Jobs-Kind"), "test.nats");
    assert_eq!(header("traceparent"), PARENT);
    assert_eq!(header("tracestate"), "vendor=1");
}

#[tokio::test]
async fn a_service_that_is_not_there_may_come() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    let handler = handler(&client, "nats = \"handlers.test\"");
    let failure = run(&handler, &json!(1)).await.unwrap_err();
    assert_eq!(
        failure,
        (
            "transient",
            "no service answers on handlers.test".to_owned()
        )
    );
}

#[tokio::test]
async fn a_payload_over_the_limit_of_the_server_is_refused_at_once() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    let handler = handler(&client, "nats = \"handlers.test\"");
    let (way, error) = run(&handler, &json!("x".repeat(2 << 20)))
        .await
        .unwrap_err();
    assert_eq!(way, "permanent");
    assert!(
        error.starts_with("the payload is too large for a request to handlers.test"),
        "{error}"
    );
}

#[tokio::test]
async fn a_service_that_never_answers_is_given_up_with_the_attempt() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    let (asked, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut requests = client.subscribe("handlers.test").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn({
        let (asked, heard) = (Arc::clone(&asked), Arc::clone(&heard));
        async move {
            while requests.next().await.is_some() {
                asked.fetch_add(1, Ordering::SeqCst);
                heard.notify_one();
            }
        }
    });
    let handler = handler(&client, "nats = \"handlers.test\"\ntimeout = \"2s\"");
    assert_eq!(handler.timeout(), Some(Duration::from_secs(2)));
    tokio::select! {
        _ = handler.call(None, attempt(), true) => panic!("it ended by itself"),
        () = heard.notified() => {}
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
