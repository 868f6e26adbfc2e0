//! Services say that they are not well, and why, within ten seconds.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bootstrap::Context;
use client::kinds;
use common::JobKind;
use serde_json::json;
use test_support::{DEADLINE, Metrics, NatsServer, Service, eventually};
use tokio_util::sync::CancellationToken;
use worker::{Lane as DurableLane, LaneOptions, Lease, Settlement, Sink, Topology};

use crate::lane::Lane;
use crate::proxy::{Proxy, Way};

/// Within so long it is seen that something has stopped.
const SEEN: Duration = Duration::from_secs(10);

const TOKENS: &str = r#"
[[token]]
name = "test"
token = "a-token-that-nobody-will-guess"
scopes = ["read"]
"#;

/// A service, as which user it connects, the connections that it has, and its tasks.
type About = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const SERVICES: [About; 4] = [
    (
        "consumer",
        "worker",
        &["jobs", "control", "durable"],
        &[
            "changes of schedules",
            "control",
            "durable cancellations",
            "durable heartbeat",
            "durable intake",
            "durable lane",
            "durable purge",
            "durable records",
            "durable schedules",
            "intake",
            "job log",
            "limit of the queue",
            "look for kinds without consumer",
            "look for overdue schedules",
            "maximum deliveries",
            "removal of old records",
            "requests to cancel",
            "requests to release keys",
            "requests to run jobs now",
            "settings of kinds",
            "subscriptions",
            "ticks of schedules",
            "watch for overdue jobs",
            "watch of the pulls",
            "watch of the storage",
        ],
    ),
    (
        "publisher",
        "publisher",
        &["jobs"],
        &[
            "jobs",
            "look-ups of submissions",
            "registration",
            "submissions",
            "unique submissions",
            "watch of the storage",
        ],
    ),
    (
        "status-service",
        "status",
        &["status"],
        &["fleet", "rounds"],
    ),
    (
        "gateway",
        "gateway",
        &["gateway"],
        &[
            "connections",
            "dashboard",
            "look-ups of submissions",
            "registration",
            "submissions",
            "tokens",
            "unique submissions",
            "watch of the storage",
        ],
    ),
];

/// Starts a service whose connections pass the proxy.
fn start(lane: &Lane, service: &str, user: &str, proxy: &Proxy) -> Service {
    let builder = Service::named(service)
        .envs(lane.fixture.server.env_for(user))
        .env("NATS_URL", proxy.url());
    match service {
        "publisher" => builder.args(["--interval", "1s", "--delivery", "durable"]),
        "status-service" => builder.args(["--interval", "200ms"]),
        "gateway" => {
            let tokens = lane.file("tokens.toml");
            std::fs::write(&tokens, TOKENS).unwrap();
            builder
                .args(["--listen", "127.0.0.1:0"])
                .arg("--tokens")
                .arg(tokens)
        }
        _ => builder,
    }
    .start()
}

/// The tasks that give signs of life.
fn tasks(metrics: &Metrics) -> BTreeSet<String> {
    let series = metrics.series().into_iter();
    let tasks = series.filter_map(|series| {
        let task = series.strip_prefix("jobs_task_silent_seconds{task=\"")?;
        Some(task.strip_suffix("\"}")?.to_owned())
    });
    tasks.collect()
}

async fn is_ready(service: &mut Service) {
    eventually(DEADLINE, "the service to be ready", async || {
        let answer = service.look_at("/readyz").await;
        (answer.status == 200).then_some(())
    })
    .await;
}

async fn freezes_and_thaws(lane: &Lane, (service, user, connections, own): About) {
    let proxy = Proxy::to(&lane.fixture.server);
    let mut running = start(lane, service, user, &proxy);
    // What it does at its start has an end of its own, when the server does not answer.
    let has_begun = |metrics: &Metrics| own.iter().all(|task| tasks(metrics).contains(*task));
    running.scrape_until(has_begun).await;
    for connection in connections {
        let figure = format!("jobs_nats_connected{{connection=\"{connection}\"}}");
        for way in [Way::ToServer, Way::ToClient] {
            is_ready(&mut running).await;
            let metrics = running.scrape().await;
            assert_eq!(metrics.get(&figure), Some(1.0), "{service}");
            let began = Instant::now();
            proxy.freeze(&format!(" {connection}"), way);
            let what =
                format!("the frozen connection {connection} of the {service} to be seen, {way:?}");
            eventually(SEEN, &what, async || {
                let answer = running.look_at("/readyz").await;
                let told = format!("{connection}: no answer from NATS for ");
                (answer.status == 503 && answer.body.contains(&told)).then_some(())
            })
            .await;
            let metrics = running.scrape().await;
            assert_eq!(metrics.get(&figure), Some(0.0), "{service}");
            assert_eq!(metrics.get("jobs_ready"), Some(0.0), "{service}");
            let took = began.elapsed();
            proxy.mend();
            running
                .scrape_until(|metrics| metrics.get(&figure) == Some(1.0))
                .await;
            is_ready(&mut running).await;
            println!("{service}, {connection}, {way:?}: seen after {took:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_connection_of_any_service_is_seen_within_ten_seconds_and_all_is_well_when_it_thaws()
 {
    let lane = Lane::start().await;
    // So that there is somebody to run jobs, and streams to store them in.
    let _consumer = lane.consumer("steady", &[]).await;
    let lane = &lane;
    let [consumer, publisher, status, gateway] =
        SERVICES.map(|about| freezes_and_thaws(lane, about));
    tokio::join!(consumer, publisher, status, gateway);
}

#[tokio::test]
async fn each_task_of_each_service_gives_signs_of_life() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("steady", &[]).await;
    let proxy = Proxy::to(&lane.fixture.server);
    for (service, user, connections, own) in SERVICES {
        let mut running = start(&lane, service, user, &proxy);
        let mut wanted: BTreeSet<_> = own.iter().map(|task| (*task).to_owned()).collect();
        wanted.extend(
            connections
                .iter()
                .map(|purpose| format!("connection {purpose}")),
        );
        wanted.extend(["monitor", "signals"].map(str::to_owned));
        let metrics = running
            .scrape_until(|metrics| tasks(metrics).is_superset(&wanted))
            .await;
        assert_eq!(tasks(&metrics), wanted, "{service}");
        is_ready(&mut running).await;
    }
}

/// Runs nothing.
#[derive(Default)]
struct Idle(Mutex<usize>);

impl Sink for Idle {
    fn capacity(&self) -> usize {
        1
    }

    fn room(&self) -> usize {
        1
    }

    fn take(&self, jobs: Vec<Arc<Lease>>) {
        *self.0.lock().unwrap() += jobs.len();
    }

    fn give_up_waiting(&self, _longer_than: Duration) -> Vec<Arc<Lease>> {
        Vec::new()
    }

    fn refused(&self, _kind: Option<&JobKind>, _settlement: &Settlement) {}
}

#[tokio::test]
async fn a_consumer_whose_pulls_the_server_ignores_is_not_ready_while_jobs_wait() {
    let users = r#"
        no_auth_user: all
        authorization { users = [
            { user: all, password: all }
            { user: deaf, password: deaf, permissions { publish { deny: ["$JS.API.CONSUMER.MSG.NEXT.JOBS.>"] } } }
        ] }
    "#;
    let server = NatsServer::builder().open().config(users).start().await;
    let lane = Lane::on(server).await;
    let url = lane.fixture.server.url();
    let arguments = [
        "consumer",
        "--nats-url",
        &url,
        "--nats-user",
        "deaf",
        "--nats-password",
        "deaf",
    ];
    let config = <consumer::Config as clap::Parser>::parse_from(arguments);
    let shutdown = CancellationToken::new();
    let context = Context::new(consumer::ABOUT, config.options, shutdown.clone());
    let options = LaneOptions {
        instance: "deaf".to_owned(),
        kinds: vec!["note".parse().unwrap()],
        keep: Duration::from_hours(1),
        keep_payload: 0,
        topology: Topology::default(),
        accept_unsafe: false,
        starved_after: Duration::from_secs(3),
    };
    let sink: Arc<dyn Sink> = Arc::new(Idle::default());
    let (deaf, end) = DurableLane::start(&context, options, sink)
        .await
        .unwrap()
        .unwrap();
    deaf.begin();
    // As long as nothing waits for it, it does all that is to be done.
    let began = Instant::now();
    eventually(DEADLINE, "the time for a pull to be over", async || {
        assert_eq!(context.health.problem("pulls"), None);
        (began.elapsed() > Duration::from_secs(6)).then_some(())
    })
    .await;
    let job = lane.submit(json!({"kind": "note"})).await;
    let problem = eventually(SEEN, "the pulls that come to nothing", async || {
        context.health.problem("pulls")
    })
    .await;
    assert!(
        problem.starts_with("no pull of durable jobs of kind note has succeeded"),
        "{problem}"
    );
    assert!(problem.ends_with("jobs waiting: 1"), "{problem}");
    // The jobs of a paused kind are to wait.
    let (admin, kind) = (lane.admin.clone().into(), "note".parse().unwrap());
    let pause = kinds::Pause::default();
    kinds::pause(&admin, &kind, &pause).await.unwrap();
    eventually(SEEN, "no problem while the kind is paused", async || {
        context.health.problem("pulls").is_none().then_some(())
    })
    .await;
    kinds::resume(&admin, &kind, None).await.unwrap();
    eventually(SEEN, "the pulls that come to nothing", async || {
        context.health.problem("pulls")
    })
    .await;
    lane.cancel(job).await;
    eventually(SEEN, "the problem to be over", async || {
        context.health.problem("pulls").is_none().then_some(())
    })
    .await;
    shutdown.cancel();
    deaf.finish(end, DEADLINE).await.unwrap();
}
