//! NATS goes away, and comes back.

use serde_json::json;
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::support::{Gateway, consumer, http, send, status_service, streams_without_consumer};

#[tokio::test]
async fn before_nats_is_there_clients_are_told_to_come_again_and_then_served_where_they_are() {
    let mut nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    nats.kill().await;
    let mut gateway = Gateway::once_it_is("listening on ", &nats, &[]).await;
    let (client, url) = (http(), gateway.url.clone());
    let asking = |path: &str| client.get(format!("{url}{path}"));
    for path in ["/v1/jobs", "/v1/fleet", "/", "/nothing"] {
        let answer = send(asking(path)).await;
        assert_eq!(answer.problem().0, 503, "{path}: {answer:?}");
        assert!(answer.text.contains("no connection to NATS"), "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{path}");
        assert!(answer.headers.contains_key("content-security-policy"));
    }
    let page = send(asking("/jobs").header("accept", "text/html")).await;
    assert_eq!(page.status, 503);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.text.contains("NATS does not answer"), "{page:?}");
    assert!(page.headers.contains_key("retry-after"), "{page:?}");
    let style = page
        .text
        .split("href=\"")
        .find(|part| part.contains(".css"))
        .unwrap();
    let style = send(asking(style.split('"').next().unwrap())).await;
    assert_eq!(style.status, 200, "the page has no style");
    assert_eq!(gateway.service.look_at("/livez").await.status, 200);
    assert_eq!(gateway.service.look_at("/readyz").await.status, 503);
    nats.start_again().await;
    gateway
        .service
        .wait_for_line(|line| line.contains("serving http"))
        .await;
    assert_eq!(send(asking("/v1/streams")).await.status, 200);
    assert_eq!(send(asking("/")).await.status, 200);
    assert_eq!(gateway.service.look_at("/readyz").await.status, 200);
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_waits_for_nats_stops_when_it_is_told_to() {
    let mut nats = NatsServer::start().await;
    nats.kill().await;
    let gateway = Gateway::once_it_is("listening on ", &nats, &[]).await;
    assert_eq!(gateway.get("/v1/jobs").await.status, 503);
    gateway.stop().await;
}

#[tokio::test]
async fn credentials_that_nats_refuses_end_it_at_once() {
    let nats = NatsServer::start().await;
    let mut gateway = Service::program(env!("CARGO_BIN_EXE_gateway"))
        .envs(nats.env_for("gateway"))
        .env("NATS_PASSWORD", "guessed")
        .args(["--listen", "127.0.0.1:0"])
        .start();
    assert_eq!(gateway.wait().await.code(), Some(2));
    let text = gateway.stdout().join("\n");
    assert!(text.contains("refuses these credentials"), "{text}");
}

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

#[tokio::test]
async fn while_nats_is_away_the_overview_shows_the_last_known_figures_as_old() {
    let mut nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let _status = status_service(&nats);
    let gateway = Gateway::start(&nats).await;
    gateway.dead_job("upstream does not answer").await;
    let figures = |page: &str| {
        ["consumers", "processed", "queued", "dead"].map(|tile| {
            let tile = page.split(&format!("id=\"tile-{tile}\"")).nth(1).unwrap();
            let value = tile.split("class=\"value\">").nth(1).unwrap();
            value.split('<').next().unwrap().to_owned()
        })
    };
    let seen = ["1", "1", "0", "1"].map(str::to_owned);
    eventually(DEADLINE, "the figures", async || {
        let page = gateway.get("/").await.text;
        (figures(&page) == seen && page.contains("id=\"kind-fail\"")).then_some(())
    })
    .await;
    nats.kill().await;
    let old = eventually(DEADLINE, "the figures to be old", async || {
        let page = gateway.get("/").await.text;
        page.contains("id=\"old\"").then_some(page)
    })
    .await;
    assert_eq!(figures(&old), seen, "{old}");
    assert!(old.contains("id=\"kind-fail\""), "{old}");
    let notice = old.split("id=\"old\"").nth(1).unwrap();
    let notice = notice.split("</div>").next().unwrap();
    assert!(notice.contains("<time datetime="), "{notice}");
    nats.start_again().await;
    eventually(DEADLINE, "fresh figures", async || {
        let page = gateway.get("/").await.text;
        (!page.contains("id=\"old\"") && figures(&page) == seen).then_some(())
    })
    .await;
}
