//! A real server, started and stopped as tests do it.

use std::pin::pin;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, RequestErrorKind};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};
use tokio::net::{TcpListener, TcpStream};

async fn answers(client: &Client) -> bool {
    let request = client.request("nobody.listens", "".into());
    let error = request.await.expect_err("nobody listens");
    error.kind() == RequestErrorKind::NoResponders
}

#[tokio::test]
async fn an_open_server_lets_anybody_in() {
    let nats = NatsServer::builder().open().start().await;
    let client = async_nats::connect(nats.url())
        .await
        .expect("an open server asks nothing");
    assert!(answers(&client).await);
    let named = nats.connect_as("worker").await;
    assert!(answers(&named).await);
}

#[tokio::test]
async fn the_configured_server_lets_its_users_in_and_nobody_else() {
    let nats = NatsServer::start().await;
    for user in [
        "publisher",
        "worker",
        "status",
        "operator",
        "gateway",
        "admin",
    ] {
        nats.connect_as(user).await;
    }
    let error = async_nats::connect(nats.url())
        .await
        .expect_err("a password is needed");
    assert_eq!(error.kind(), ConnectErrorKind::AuthorizationViolation);
    let wrong = ConnectOptions::with_user_and_password("worker".into(), "guessed".into());
    let error = wrong
        .connect(nats.url())
        .await
        .expect_err("the password is wrong");
    assert_eq!(error.kind(), ConnectErrorKind::AuthorizationViolation);
}

#[tokio::test]
async fn a_user_receives_replies_under_its_own_inbox_prefix() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let mut jobs = worker
        .queue_subscribe("jobs.create", "workers".into())
        .await
        .unwrap();
    worker.flush().await.unwrap();
    let publisher = nats.connect_as("publisher").await;
    let answer = async {
        let job = jobs.next().await.expect("the job arrives");
        let reply = job.reply.expect("a request names where to reply");
        worker.publish(reply, "done".into()).await.unwrap();
    };
    let request = async {
        // The subscription of another connection takes a moment to be known.
        eventually(DEADLINE, "a responder", async || {
            publisher.request("jobs.create", "{}".into()).await.ok()
        })
        .await
    };
    let ((), reply) = tokio::join!(answer, request);
    assert_eq!(reply.payload, "done");
}

#[tokio::test]
async fn extra_lines_are_added_and_replace_what_stands_there() {
    let nats = NatsServer::builder()
        .config("max_payload: 1234")
        .start()
        .await;
    assert_eq!(
        nats.connect_as("worker").await.server_info().max_payload,
        1234
    );
    let open = NatsServer::builder()
        .open()
        .config("max_payload: 4321")
        .start()
        .await;
    assert_eq!(
        open.connect_as("worker").await.server_info().max_payload,
        4321
    );
}

#[tokio::test]
#[should_panic(expected = "nats-server did not start")]
async fn a_configuration_that_the_server_refuses_is_reported() {
    NatsServer::builder()
        .open()
        .config("max_payload: many")
        .start()
        .await;
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let nats = NatsServer::builder().open().start().await;
    let address = ("127.0.0.1", nats.port());
    TcpStream::connect(address)
        .await
        .expect("the server accepts connections");
    drop(nats);
    eventually(DEADLINE, "the port to be closed", async || {
        TcpStream::connect(address).await.err()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_stopped_or_killed_comes_back_on_its_ports() {
    let mut nats = NatsServer::start().await;
    let (url, monitoring) = (nats.url(), nats.monitoring_url());
    nats.stop().await;
    nats.start_again().await;
    nats.connect_as("worker").await;
    nats.kill().await;
    nats.start_again().await;
    nats.connect_as("worker").await;
    assert_eq!((nats.url(), nats.monitoring_url()), (url, monitoring));
    assert_eq!(nats.log().matches("Server is ready").count(), 3);
}

/// Makes a stream on this server, and stores a message in it.
async fn store(nats: &NatsServer) {
    let stream = json!({"name": "KEPT", "subjects": ["kept"], "storage": "file"});
    let client = nats.connect_as("worker").await;
    let created = ask(&client, "$JS.API.STREAM.CREATE.KEPT", stream).await;
    assert_eq!(created["config"]["name"], "KEPT", "{created}");
    let stored = ask(&client, "kept", json!("job")).await;
    assert_eq!(stored["seq"], 1, "{stored}");
}

async fn ask(client: &Client, subject: &'static str, what: Value) -> Value {
    let answer = client.request(subject, what.to_string().into()).await;
    let answer = answer.unwrap_or_else(|error| panic!("nobody answers {subject}: {error}"));
    serde_json::from_slice(&answer.payload).expect("the server answers with JSON")
}

#[tokio::test]
async fn what_is_stored_survives_a_stop_and_a_crash() {
    let mut nats = NatsServer::builder().open().start().await;
    store(&nats).await;
    nats.stop().await;
    nats.start_again().await;
    nats.kill().await;
    nats.start_again().await;
    let client = nats.connect_as("worker").await;
    let kept = ask(&client, "$JS.API.STREAM.INFO.KEPT", Value::Null).await;
    assert_eq!(kept["state"]["messages"], 1, "{kept}");
}

#[tokio::test]
async fn whoever_stores_jobs_can_ask_whether_the_server_syncs_each_write() {
    let nats = NatsServer::start().await;
    for user in ["publisher", "worker", "gateway"] {
        let client = nats.connect_as(user).await;
        let about = ask(&client, "jobs.server", Value::Null).await;
        let config = &about["data"]["jetstream"]["config"];
        assert_eq!(config["sync_always"], true, "{user}: {about}");
        assert_eq!(config["strict"], true, "{user}: {about}");
    }
    let open = NatsServer::builder().open().start().await;
    let config = &open.varz().await["jetstream"]["config"];
    assert_eq!(
        (&config["sync_always"], &config["strict"]),
        (&json!(true), &json!(true))
    );
}

#[tokio::test]
async fn a_server_without_jetstream_has_none() {
    let nats = NatsServer::builder().without_jetstream().start().await;
    let client = nats.connect_as("worker").await;
    assert!(answers(&client).await);
    let info = client.request("$JS.API.INFO", "".into()).await;
    assert_eq!(info.unwrap_err().kind(), RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn a_server_waits_for_its_port_while_another_has_it() {
    let mut nats = NatsServer::builder().open().start().await;
    nats.stop().await;
    let intruder = TcpListener::bind(("127.0.0.1", nats.port())).await.unwrap();
    {
        let mut start = pin!(nats.start_again());
        let early = tokio::time::timeout(Duration::from_millis(200), &mut start).await;
        assert!(early.is_err(), "it started on a port that another has");
        drop(intruder);
        start.await;
    }
    assert!(nats.log().contains("address already in use"));
    nats.connect_as("worker").await;
}

#[tokio::test]
async fn a_paused_server_does_not_answer_until_it_is_resumed() {
    let nats = NatsServer::builder().open().start().await;
    let client = nats.connect_as("worker").await;
    assert!(answers(&client).await);
    nats.pause();
    let request = client.send_request(
        "nobody.listens",
        async_nats::Request::new().timeout(Some(Duration::from_millis(100))),
    );
    assert_eq!(
        request.await.unwrap_err().kind(),
        RequestErrorKind::TimedOut
    );
    nats.resume();
    assert!(answers(&client).await);
}

#[tokio::test]
async fn the_monitoring_pages_are_read() {
    let nats = NatsServer::start().await;
    let _worker = nats.connect_as("worker").await;
    assert_eq!(nats.varz().await["connections"], 1);
    let connections = nats.connz().await;
    assert_eq!(connections["num_connections"], 1);
    assert_eq!(connections["connections"][0]["lang"], "rust");
}

#[tokio::test]
async fn services_are_told_how_to_connect() {
    let nats = NatsServer::start().await;
    let env = nats.env_for("status");
    let get = |name: &str| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(get("NATS_URL"), Some(nats.url()));
    assert_eq!(get("NATS_INBOX_PREFIX").as_deref(), Some("_INBOX_status"));
    let options = ConnectOptions::with_user_and_password(
        get("NATS_USER").expect("a user is named"),
        get("NATS_PASSWORD").expect("a password is given"),
    );
    options
        .connect(nats.url())
        .await
        .expect("the password is right");
}
