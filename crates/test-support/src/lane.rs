//! What a consumer of the durable lane would have stored.

use std::fmt::Display;

use async_nats::{Client, HeaderMap};
use serde_json::{Value, json};

/// Stores a message in a stream.
///
/// # Panics
///
/// When the server does not take it.
pub async fn put(client: &Client, subject: String, headers: HeaderMap, payload: String) {
    let answer = client.request_with_headers(subject, headers, payload.into());
    let answer = answer.await.expect("a stream takes the message");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JetStream answers in JSON");
    assert!(answer.get("error").is_none(), "{answer}");
}

/// Writes the record of a durable job as a consumer would: that of its first attempt, with these
/// fields.
///
/// # Panics
///
/// When the server does not take it, or the fields are no object.
pub async fn put_record(client: &Client, id: impl Display, fields: Value) {
    let mut record = json!({
        "id": id.to_string(), "kind": "echo", "at": "2026-01-31T09:30:00Z", "run": 1, "attempt": 1,
    });
    let Value::Object(fields) = fields else {
        panic!("not the fields of a record: {fields}");
    };
    for (name, value) in fields {
        record[name] = value;
    }
    let subject = format!("jobs.state.{id}");
    put(client, subject, HeaderMap::new(), record.to_string()).await;
}

/// Gives a durable job up as a consumer would, after its first attempt failed with this message.
///
/// # Panics
///
/// When the server does not take it.
pub async fn bury(worker: &Client, id: impl Display, kind: &str, reason: &str, message: &str) {
    let failures = json!([{
        "attempt": 1, "consumer": "consumer-1", "at": "2026-01-31T09:30:00Z",
        "error": {"code": "permanent", "message": message},
    }]);
    let fields = json!({"kind": kind, "state": "dead", "reason": reason, "failures": failures});
    put_record(worker, &id, fields).await;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-1-2-01");
    headers.insert("Jobs-Reason", reason);
    headers.insert("Jobs-Failures", failures.to_string());
    headers.insert("Jobs-Priority", "high");
    headers.insert("Jobs-Run", "1");
    let job = format!(r#"{{"id":"{id}","kind":"{kind}","payload":{{"to":"a"}},"max_attempts":3}}"#);
    put(worker, format!("jobs.dead.{id}.{kind}"), headers, job).await;
}
