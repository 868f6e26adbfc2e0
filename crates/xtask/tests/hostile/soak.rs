//! Good jobs at a steady rate in all three lanes, beside somebody who sends garbage, for long.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use common::{JobId, JobRecord, Priority, subjects};
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::fixture::{memory_mb, peak_memory_mb};
use crate::fuzz::any_headers;
use crate::lane::Lane;
use crate::poison::{UNREADABLE, durable_job};
use crate::raw::{RawMessage, RawUser};

/// Good jobs a second in each lane.
const GOOD: u64 = 20;

/// Messages a second of somebody who sends garbage.
const GARBAGE: u64 = 100;

/// The soak goes in rounds: good jobs alone for this long, then beside garbage for [`BESIDE`]. So the
/// disk, whose speed changes within minutes, is the same for both.
const ALONE: Duration = Duration::from_secs(40);

/// How long good jobs run beside garbage in one round.
const BESIDE: Duration = Duration::from_mins(2);

/// The kind of plain publishes, which nothing else has, so that they can be counted.
const PLAIN: &str = "sha256";

/// Times from submission to the end, in microseconds.
struct Times {
    confirmed: Histogram<u64>,
    durable: Histogram<u64>,
}

impl Times {
    fn new() -> Arc<Mutex<Self>> {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        Arc::new(Mutex::new(Self {
            confirmed: histogram(),
            durable: histogram(),
        }))
    }

    fn add(&mut self, more: &Self) {
        self.confirmed.add(&more.confirmed).unwrap();
        self.durable.add(&more.durable).unwrap();
    }

    fn told(&self) -> String {
        let of = |times: &Histogram<u64>| {
            let [p50, p99, max] =
                [0.5, 0.99, 1.0].map(|quantile| times.value_at_quantile(quantile));
            format!(
                "{} jobs, p50 {p50} us, p99 {p99} us, longest {max} us",
                times.len()
            )
        };
        format!(
            "confirmed: {}; durable: {}",
            of(&self.confirmed),
            of(&self.durable)
        )
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap()
}

/// When a job was submitted, and where its time belongs.
type Waiting = (Instant, Arc<Mutex<Times>>);

/// What the good user has sent and not heard the end of.
#[derive(Default)]
struct Sent {
    durable: Mutex<HashMap<JobId, Waiting>>,
    durable_count: Mutex<u64>,
    plain: Mutex<u64>,
    confirmed_failed: Mutex<Vec<String>>,
}

/// Takes the time of each durable job that ends.
async fn watch_ends(client: Client, sent: Arc<Sent>) {
    let mut events = client.subscribe("jobs.events.*").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            // Others put on records what is none.
            let Ok(record) = serde_json::from_slice::<JobRecord>(&event.payload) else {
                continue;
            };
            if record.state.is_final() {
                let ended = sent.durable.lock().unwrap().remove(&record.id);
                if let Some((since, times)) = ended {
                    times.lock().unwrap().durable.record(micros(since)).unwrap();
                }
            }
        }
    });
}

/// Sends good jobs for so long.
async fn good_jobs(
    clients: &(Client, Client),
    sent: &Arc<Sent>,
    duration: Duration,
) -> Arc<Mutex<Times>> {
    let times = Times::new();
    let until = Instant::now() + duration;
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(GOOD).unwrap());
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tasks = JoinSet::new();
    while Instant::now() < until {
        tick.tick().await;
        let (confirmed, durable) = clients.clone();
        let (sent, times) = (Arc::clone(sent), Arc::clone(&times));
        tasks.spawn(async move {
            confirmed_job(&confirmed, &sent, &times).await;
            let plain = json!({"kind": PLAIN, "payload": {"text": "x"}}).to_string();
            confirmed
                .publish("jobs.create", plain.into())
                .await
                .unwrap();
            *sent.plain.lock().unwrap() += 1;
            durable_job_of(&durable, &sent, &times).await;
        });
    }
    tasks.join_all().await;
    times
}

/// A request, which is sent again as a publisher would.
async fn confirmed_job(client: &Client, sent: &Sent, times: &Mutex<Times>) {
    let job = json!({"id": JobId::generate(), "kind": "echo", "payload": "good"}).to_string();
    let since = Instant::now();
    let mut last = String::new();
    while since.elapsed() < DEADLINE {
        let request = client.request("jobs.create", job.clone().into());
        match tokio::time::timeout(Duration::from_secs(5), request).await {
            Ok(Ok(answer)) => {
                let outcome: Value = serde_json::from_slice(&answer.payload).unwrap();
                if outcome["status"] == "succeeded" {
                    times
                        .lock()
                        .unwrap()
                        .confirmed
                        .record(micros(since))
                        .unwrap();
                    return;
                }
                last = outcome.to_string();
            }
            other => last = format!("{other:?}"),
        }
    }
    sent.confirmed_failed.lock().unwrap().push(last);
}

/// A durable job, which is stored when this returns.
async fn durable_job_of(client: &Client, sent: &Sent, times: &Arc<Mutex<Times>>) {
    let id = JobId::generate();
    let kind = "echo".parse().unwrap();
    let subject = subjects::durable_job(id, Priority::Normal, 1, &kind);
    let job = json!({"id": id, "kind": "echo", "payload": "good"}).to_string();
    let entry = (Instant::now(), Arc::clone(times));
    sent.durable.lock().unwrap().insert(id, entry);
    // A request ends by itself, and no responders answer at once only while the server is away.
    for _ in 0..20 {
        let request = client.request(subject.clone(), job.clone().into());
        let Ok(answer) = request.await else { continue };
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let known = answer["error"]["err_code"] == crate::lane::STORED_ALREADY;
        // An answer with an error has a sequence, too: 0.
        if known || answer["error"].is_null() && answer["seq"].is_u64() {
            *sent.durable_count.lock().unwrap() += 1;
            return;
        }
    }
    panic!("a job could not be stored");
}

/// One message of garbage; of which kind is chance.
fn garbage(random: &mut StdRng) -> (RawMessage, Option<String>) {
    let id = JobId::generate();
    let kind = random.random_range(0..10);
    let mut message = durable_job(id, &any_headers(random));
    let mut reply = None;
    match kind {
        0 => {
            let unreadable = UNREADABLE[random.random_range(0..UNREADABLE.len())].1;
            message.headers = unreadable.to_vec();
        }
        1 => {
            message.subject = format!("jobs.later.{id}");
            message.headers = b"NATS/1.0\r\nNats-Rollup: all\r\n\r\n".to_vec();
        }
        2 => {
            message.subject = format!("jobs.later.{id}");
            message.headers = format!(
                "NATS/1.0\r\nNats-Schedule: @every 1s\r\nNats-Schedule-Target: jobs.due.{id}.normal.1.echo\r\n\r\n"
            )
            .into_bytes();
        }
        // Nested deeper than most can read.
        3 => {
            message.headers = Vec::new();
            let payload = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
            message.payload = format!("{{\"kind\":\"echo\",\"payload\":{payload}}}").into_bytes();
        }
        4 => {
            message.headers = Vec::new();
            message.payload = b"{\"kind\":\"echo\",\"payload\":\"\\ud800\"}".to_vec();
        }
        // The answer of the server becomes somebody's record.
        5 => {
            message.headers = Vec::new();
            reply = Some(subjects::state(id));
        }
        6 => {
            message.headers = Vec::new();
            message.payload = (0..200).map(|_| random.random::<u8>()).collect();
        }
        7 => message.headers = b"NATS/1.0\r\nNats-Rollup: all\r\n\r\n".to_vec(),
        _ => {}
    }
    if message.subject.starts_with("jobs.durable") && random.random_bool(0.4) {
        let subjects = ["jobs.create", "jobs.create.echo"];
        subjects[random.random_range(0..2)].clone_into(&mut message.subject);
    }
    (message, reply)
}

/// Sends garbage until it is told to stop, over a new connection whenever the server ends one, and adds
/// to `sent` how much went to each lane.
async fn send_garbage(
    server: &NatsServer,
    random: &mut StdRng,
    sent: &mut BTreeMap<String, u64>,
    stop: CancellationToken,
) {
    let mut user = RawUser::log_in(server, "publisher").await;
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(GARBAGE).unwrap());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if user.is_closed() {
            user = RawUser::log_in(server, "publisher").await;
        }
        let (message, reply) = garbage(random);
        let lane: Vec<_> = message.subject.split('.').take(2).collect();
        *sent.entry(lane.join(".")).or_insert(0) += 1;
        match reply {
            Some(reply) => user.send_to(&message, &reply).await,
            None => drop(user.send(&message).await),
        }
    }
}

/// Run with `SOAK_MINUTES=20 cargo test --package xtask --test hostile -- --ignored --nocapture soak`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes twenty minutes, or as many as SOAK_MINUTES says"]
async fn good_jobs_are_neither_lost_nor_slow_beside_garbage() {
    let minutes: u64 = env::var("SOAK_MINUTES").map_or(20, |minutes| minutes.parse().unwrap());
    let lane = Lane::start().await;
    let server = &lane.fixture.server;
    let mut consumers = vec![lane.consumer("a", &[]).await, lane.consumer("b", &[]).await];
    let clients = (
        server.connect_as("publisher").await,
        server.connect_as("operator").await,
    );
    let sent = Arc::new(Sent::default());
    watch_ends(server.connect_as("operator").await, Arc::clone(&sent)).await;

    let (alone, beside) = (Times::new(), Times::new());
    let mut random = StdRng::seed_from_u64(1);
    let mut garbage = BTreeMap::new();
    let end = Duration::from_mins(minutes);
    let mut done = Duration::ZERO;
    while done < end {
        let times = good_jobs(&clients, &sent, ALONE).await;
        println!("alone: {}", times.lock().unwrap().told());
        alone.lock().unwrap().add(&times.lock().unwrap());
        let stop = CancellationToken::new();
        let (times, ()) = tokio::join!(
            async {
                let times = good_jobs(&clients, &sent, BESIDE.min(end.saturating_sub(done))).await;
                stop.cancel();
                times
            },
            send_garbage(server, &mut random, &mut garbage, stop.clone())
        );
        println!("beside garbage: {}", times.lock().unwrap().told());
        beside.lock().unwrap().add(&times.lock().unwrap());
        done += BESIDE;
    }
    println!("alone, in all: {}", alone.lock().unwrap().told());
    println!("beside garbage, in all: {}", beside.lock().unwrap().told());
    println!("garbage sent: {garbage:?}");

    let open = || -> Vec<_> { sent.durable.lock().unwrap().keys().copied().collect() };
    let ended = async {
        while !open().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, ended).await.is_err() {
        // Those of which no event was heard: their records tell.
        lane.all_end(&open(), DEADLINE).await;
        println!("{} ends were not heard of, but are stored", open().len());
    }
    let failed = sent.confirmed_failed.lock().unwrap().clone();
    assert!(failed.is_empty(), "{failed:?}");
    let plain = *sent.plain.lock().unwrap();
    let count = async || {
        let statuses = lane.fixture.statuses(2).await;
        let of_lane = statuses
            .values()
            .filter_map(|status| status.lanes.get(subjects::CORE_LANE));
        let of_kind = of_lane.filter_map(|lane| lane.kinds.get(PLAIN));
        of_kind.map(|kind| kind.counts.succeeded).sum::<u64>()
    };
    // Those under way when a connection was lost are lost with it.
    let ran = eventually(DEADLINE, "the plain publishes", async || {
        let ran = count().await;
        (ran + 20 >= plain).then_some(ran)
    })
    .await;
    println!(
        "durable: {} submitted, all ended; plain: {plain} published, {ran} ran",
        sent.durable_count.lock().unwrap()
    );
    for consumer in &mut consumers {
        let metrics = consumer.scrape().await;
        println!(
            "a consumer: {} reconnects, {} unreadable messages, {:?} MB at most, {:?} MB of files",
            metrics.sum("jobs_nats_reconnects_total"),
            metrics.sum("jobs_nats_unreadable_messages_total"),
            peak_memory_mb(consumer),
            memory_mb(consumer.id(), "RssFile:"),
        );
    }
    println!("the server: {:?} MB", memory_mb(server.id(), "VmRSS:"));
    let (alone, beside) = (alone.lock().unwrap(), beside.lock().unwrap());
    for (name, alone, beside) in [
        ("confirmed", &alone.confirmed, &beside.confirmed),
        ("durable", &alone.durable, &beside.durable),
    ] {
        let [alone, beside] = [alone, beside].map(|times| times.value_at_quantile(0.99));
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = beside as f64 / alone as f64;
        println!("{name}: p99 is {ratio:.2} times what it was alone");
    }
}
