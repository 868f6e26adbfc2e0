//! Many jobs are cancelled by one request.

use serde_json::json;
use test_support::NatsServer;

use crate::support::{Gateway, consumer, streams_without_consumer};

#[tokio::test]
async fn many_jobs_are_cancelled_by_kind_and_state_and_a_rehearsal_changes_nothing() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let mut sleeping = Vec::new();
    for _ in 0..3 {
        let job = r#"{"kind":"sleep","payload":{"ms":600000}}"#;
        sleeping.push(gateway.post("/v1/jobs", job).await.id());
    }
    let other = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();

    // Nothing said is not everything meant, and what has ended cannot be cancelled.
    let cancel = "/v1/jobs/cancel";
    for (query, field) in [
        ("", "kind"),
        ("?dry_run=true", "kind"),
        ("?state=succeeded", "state"),
        ("?kind=sleep&stat=queued", "stat"),
    ] {
        let answer = gateway.post(&format!("{cancel}{query}"), "").await;
        assert_eq!(answer.problem(), (400, Some(field.to_owned())), "{query}");
    }
    let query = format!("{cancel}?kind=sleep&state=queued");
    let answer = gateway.post(&format!("{query}&dry_run=true"), "").await;
    let expected = json!({"matched": 3, "requested": 0, "failed": 0, "complete": true});
    assert_eq!((answer.status, answer.json()), (200, expected));
    let answer = gateway.post(&query, "").await;
    let expected = json!({"matched": 3, "requested": 3, "failed": 0, "complete": true});
    assert_eq!((answer.status, answer.json()), (200, expected));

    let _consumer = consumer(&nats, &[]).await;
    for id in sleeping {
        gateway.job_is(&id, "cancelled").await;
    }
    gateway.job_is(&other, "succeeded").await;
}
