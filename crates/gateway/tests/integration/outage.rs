//! NATS goes away, and comes back.

use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer};

#[tokio::test]
async fn while_nats_is_away_clients_are_told_to_come_again_and_then_served() {
    let mut nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let mut gateway = Gateway::start(&nats).await;
    let job = r#"{"kind":"echo"}"#;
    let id = gateway.post("/v1/jobs?wait=1m", job).await.id();
    nats.kill().await;
    gateway
        .service
        .wait_for_line(|line| line.contains("lost NATS"))
        .await;
    for path in [
        format!("/v1/jobs/{id}"),
        "/v1/jobs".to_owned(),
        "/v1/dead-letters".to_owned(),
        "/v1/fleet".to_owned(),
        "/v1/streams".to_owned(),
        format!("/v1/jobs/{id}/events"),
    ] {
        let answer = gateway.get(&path).await;
        assert_eq!(answer.problem().0, 503, "{path}: {answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{path}");
    }
    for delivery in ["durable", "confirmed", "fire-and-forget"] {
        let answer = gateway
            .post(&format!("/v1/jobs?delivery={delivery}"), job)
            .await;
        assert_eq!(answer.problem().0, 503, "{delivery}: {answer:?}");
    }
    nats.start_again().await;
    eventually(DEADLINE, "the gateway to be back", async || {
        let answer = gateway.post("/v1/jobs?wait=10s", job).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(
        gateway.get(&format!("/v1/jobs/{id}")).await.json()["state"],
        json!("succeeded")
    );
}
