//! A server that has stopped storing after a write error, until it is restarted.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::JobState;
use serde_json::json;
use test_support::{DEADLINE, Service, eventually, project_root};

use crate::fixture::stop;
use crate::lane::{Lane, succeeded};

/// Jobs that a publisher is given while nothing is stored.
const JOBS: usize = 200;

/// The page that the health check of NATS in docker-compose.yml asks for.
fn compose_health_check() -> String {
    let compose = fs::read_to_string(project_root().join("docker-compose.yml")).unwrap();
    let (_, path) = compose.split_once("http://127.0.0.1:8222").unwrap();
    path.split('"').next().unwrap().to_owned()
}

/// The first page of a gateway.
fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET / HTTP/1.0\r\nhost: {address}\r\naccept: text/html\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

async fn says_why(service: &mut Service) {
    service
        .wait_for_line(|line| line.contains("the server has stopped storing: JetStream stream"))
        .await;
    let answer = service.look_at("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.contains("the server has stopped storing"),
        "{answer:?}"
    );
    assert!(answer.body.contains("restart nats-server"), "{answer:?}");
    service
        .scrape_until(|metrics| metrics.get("jobs_problem{respect=\"storage\"}") == Some(1.0))
        .await;
}

async fn is_well_again(service: &mut Service) {
    service
        .wait_for_line(|line| line.contains("the server stores again"))
        .await;
    eventually(DEADLINE, "the service to be ready", async || {
        (service.look_at("/readyz").await.status == 200).then_some(())
    })
    .await;
    let times = |words: &str| {
        let lines = service.lines();
        lines
            .iter()
            .filter(|line| line.text.contains(words))
            .count()
    };
    assert_eq!(
        times("ERROR"),
        times("the server has stopped storing: JetStream"),
        "{:?}",
        service.lines()
    );
    assert_eq!(times("the server stores again"), 1);
}

#[tokio::test]
async fn a_server_that_has_stopped_storing_is_named_by_all_and_nothing_is_lost_or_given_up() {
    let mut lane = Lane::start().await;
    let mut consumer = lane.consumer("first", &[]).await;
    let server = &lane.fixture.server;
    let mut status = Service::named("status-service")
        .envs(server.env_for("status"))
        .args(["--interval", "200ms"])
        .start();
    let (mut gateway, address) = lane.fixture.gateway().await;
    lane.hold(1);
    let held = lane
        .submit_all((0..2).map(|_| json!({"kind": "held"})))
        .await;
    for id in &held {
        lane.becomes(*id, JobState::Running).await;
    }
    let health_check = compose_health_check();
    assert_eq!(server.monitoring_status(&health_check).await, 200);

    server.fail_writes();
    let mut bulk = lane.fixture.bulk(
        (0..JOBS).map(|_| json!({"kind": "note"})),
        &["--delivery", "durable", "--confirm-timeout", "1s"],
    );
    // What has run cannot be stored either.
    lane.release(1);
    bulk.publisher
        .wait_for_line(|line| {
            line.contains("jobs wait to be stored: the server has stopped storing")
        })
        .await;
    for service in [
        &mut consumer,
        &mut status,
        &mut gateway,
        &mut bulk.publisher,
    ] {
        says_why(service).await;
    }
    assert_eq!(
        lane.fixture.server.monitoring_status(&health_check).await,
        503
    );
    eventually(DEADLINE, "the page that says so", async || {
        page(&address).contains("not storing").then_some(())
    })
    .await;

    // That the disk is well again is not enough.
    lane.fixture.server.allow_writes();
    assert_eq!(
        lane.fixture.server.monitoring_status(&health_check).await,
        503
    );
    lane.fixture.server.stop().await;
    lane.fixture.server.start_again().await;
    assert!(bulk.publisher.wait().await.success());
    let ids: Vec<_> = bulk.ids.iter().map(|id| id.parse().unwrap()).collect();
    let ended = lane.all_end(&ids, DEADLINE).await;
    lane.account(&ids, &ended, 0..=0);
    succeeded(&ended);
    let ended = lane.all_end(&held, DEADLINE).await;
    succeeded(&ended);
    for service in [&mut consumer, &mut status, &mut gateway] {
        is_well_again(service).await;
    }
    assert_eq!(
        lane.fixture.server.monitoring_status(&health_check).await,
        200
    );
    stop(&mut consumer).await;
}
