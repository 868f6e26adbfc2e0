//! Publishers that are killed, and a queue that is full.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use common::{JobId, JobKind};
use jetstream::{Entry, Limits, Message, NotStored, Pace, Topology, Writer};
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};
use tokio::sync::watch;
use worker::{Lane as DurableLane, LaneOptions, Lease, Settlement, Sink};

use crate::fixture::{said, stop};
use crate::lane::{Lane, succeeded};

#[tokio::test]
async fn a_publisher_that_is_killed_may_submit_all_of_it_again_and_nothing_is_run_twice() {
    const JOBS: usize = 6_000;
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let mut jobs = Vec::new();
    let mut text = String::new();
    for _ in 0..JOBS {
        let id = JobId::generate();
        writeln!(text, r#"{{"kind": "note", "id": "{id}"}}"#).unwrap();
        jobs.push(id);
    }
    let input = lane.file("jobs.ndjson");
    std::fs::write(&input, text).unwrap();
    let publisher = |arguments: &[&str]| {
        let publisher = lane.fixture.publisher().args(["--delivery", "durable"]);
        publisher.arg("--input").arg(&input).args(arguments).start()
    };
    // In small batches, so that it dies in the middle.
    let mut first = publisher(&["--in-flight", "8"]);
    lane.runs(50).await;
    first.kill().await;
    let before = lane.count("JOBS", "jobs.durable.>").await;
    assert!(
        first.stdout().iter().all(|line| !line.contains("summary")),
        "it had ended"
    );

    let mut second = publisher(&[]);
    assert_eq!(second.wait().await.code(), Some(0));
    let summary = said(&second, "summary").remove(0);
    println!("{before} were queued when the publisher was killed; the second says {summary}");
    // Each runs a program, and small machines take their time.
    let ended = lane.all_end(&jobs, DEADLINE * 3).await;
    lane.account(&jobs, &ended, 0..=0);
    succeeded(&ended);
    stop(&mut consumer).await;
}

/// Runs nothing, and says of each job that it succeeded.
#[derive(Default)]
struct Succeeds {
    lane: Mutex<Option<DurableLane>>,
}

impl Sink for Succeeds {
    fn capacity(&self) -> usize {
        16
    }

    fn room(&self) -> usize {
        16
    }

    fn take(&self, jobs: Vec<Arc<Lease>>) {
        let lane = self.lane.lock().unwrap().clone().unwrap();
        for job in jobs {
            let settlement = Settlement::Succeeded {
                leaves_record: true,
                result: None,
                duration: Duration::from_millis(1),
            };
            lane.settle(job, settlement);
        }
        lane.room_changed();
    }

    fn give_up_waiting(&self, _: Duration) -> Vec<Arc<Lease>> {
        Vec::new()
    }

    fn refused(&self, _: Option<&JobKind>, settlement: &Settlement) {
        panic!("{settlement:?}");
    }
}

fn padded(id: JobId) -> Entry {
    let job = json!({"id": id, "kind": "note", "payload": "x".repeat(4000)});
    vec![Message {
        subject: format!("jobs.durable.{id}.normal.1.note"),
        headers: HeaderMap::new(),
        payload: job.to_string().into(),
    }]
}

#[tokio::test]
async fn a_full_queue_refuses_what_is_new_loses_nothing_and_has_room_again_when_jobs_are_done() {
    let server = NatsServer::builder().open().start().await;
    let topology = Topology {
        limits: Limits {
            jobs_bytes: 1_000_000,
        },
        ..Topology::default()
    };
    let lane = Lane::on(server).await;
    topology
        .ensure(&lane.operator.clone().into())
        .await
        .unwrap();
    let (_up, connected) = watch::channel(true);
    let writer = Writer::start(lane.operator.clone().into(), connected, Pace::Prompt);
    let mut accepted = Vec::new();
    let refused = loop {
        let id = JobId::generate();
        match writer.store(padded(id)).await {
            Ok(_) => accepted.push(id),
            Err(error) => break error,
        }
        assert!(accepted.len() < 1000, "it is never full");
    };
    assert!(matches!(refused, NotStored::Full(_)), "{refused:?}");
    println!("{} accepted, then: {refused}", accepted.len());
    assert!(accepted.len() > 100);
    let queued = lane.count("JOBS", "jobs.durable.>").await;
    assert_eq!(queued, accepted.len(), "something was pushed out");

    let shutdown = tokio_util::sync::CancellationToken::new();
    let mut arguments = vec!["consumer".to_owned()];
    for (variable, value) in lane.fixture.server.env_for("worker") {
        let option = variable.to_lowercase().replace('_', "-");
        arguments.push(format!("--{option}={value}"));
    }
    let config = <consumer::Config as clap::Parser>::parse_from(arguments);
    let context = bootstrap::Context::new(consumer::ABOUT, config.options, shutdown.clone());
    let sink = Arc::new(Succeeds::default());
    let options = LaneOptions {
        instance: "only".to_owned(),
        kinds: vec!["note".parse().unwrap()],
        keep: Duration::from_hours(1),
        keep_payload: 0,
        topology,
        accept_unsafe: false,
        starved_after: DEADLINE,
    };
    let started = DurableLane::start(&context, options, Arc::clone(&sink) as Arc<dyn Sink>).await;
    let (consumer, end) = started.unwrap().unwrap();
    *sink.lane.lock().unwrap() = Some(consumer.clone());
    consumer.begin();
    // As many again as were accepted: each as soon as there is room.
    for _ in 0..accepted.len() {
        let id = JobId::generate();
        eventually(DEADLINE, "room for a job", async || {
            writer.store(padded(id)).await.ok()
        })
        .await;
        accepted.push(id);
    }
    let ended = lane.all_end(&accepted, DEADLINE).await;
    println!("{} accepted, {} ended, lost 0", accepted.len(), ended.len());
    succeeded(&ended);
    *sink.lane.lock().unwrap() = None;
    consumer.finish(end, DEADLINE).await.unwrap();
}
