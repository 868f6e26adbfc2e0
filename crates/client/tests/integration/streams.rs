//! What the lane holds, and what is promised of it.

use async_nats::{Client, HeaderMap};
use client::{Limits, Queues, Stream, Topology, guarantees, queues, streams};
use common::{JobId, Timestamp};
use futures_util::StreamExt as _;
use jetstream::kind_settings;
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{info, job, lane, put, put_record, queue, submitter};

#[tokio::test]
async fn what_each_stream_holds_is_told() {
    let bare = NatsServer::start().await;
    let nobody = bare.connect_as("gateway").await;
    assert!(streams(&nobody.clone().into()).await.unwrap().is_none());
    let none = queues(&nobody.clone().into(), 10).await.unwrap();
    assert!(none.queues.is_empty() && none.waiting == 0);

    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let worker = nats.connect_as("worker").await;
    submitter(&gateway)
        .submit(&job(r#"{"kind":"echo"}"#))
        .await
        .unwrap();
    for _ in 0..2 {
        put_record(&worker, JobId::generate(), json!({"state": "expired"})).await;
    }
    let depths = streams(&gateway.clone().into()).await.unwrap().unwrap();
    let messages: Vec<_> = depths
        .iter()
        .map(|depth| (depth.stream, depth.messages))
        .collect();
    assert_eq!(
        messages,
        [
            (Stream::Jobs, 1),
            (Stream::Later, 0),
            (Stream::State, 2),
            (Stream::Advisories, 0)
        ]
    );
    assert_eq!(depths[0].limit_bytes, Some(2 << 30));
    assert_eq!(depths[2].limit_bytes, None);
    assert!(depths[0].bytes > 0 && depths[0].oldest.is_some());
    assert!(depths[1].oldest.is_none());
}

/// The stream as versions before the watch for overdue jobs made it, with more subjects or without.
async fn make_older(worker: &Client, more: &[&str]) {
    let subjects = [&["jobs.state.*", "jobs.cancel.*", "jobs.dead.*.>"], more].concat();
    let config = json!({
        "name": "JOBS_STATE", "subjects": subjects, "retention": "limits", "storage": "file",
        "discard": "new", "max_msgs_per_subject": 1, "max_bytes": -1, "max_msgs": -1,
        "max_consumers": -1, "max_msg_size": -1, "num_replicas": 1, "allow_direct": true,
        "allow_atomic": true, "allow_msg_ttl": true,
        "republish": {"src": "jobs.state.*", "dest": "jobs.events.{{wildcard(1)}}"},
    });
    let create = worker.request(
        "$JS.API.STREAM.CREATE.JOBS_STATE",
        config.to_string().into(),
    );
    let answer: serde_json::Value = serde_json::from_slice(&create.await.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn a_stream_of_an_older_version_is_given_the_subjects_that_it_lacks_and_keeps_the_rest() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    make_older(&worker, &[]).await;
    let id = JobId::generate();
    put_record(&worker, id, json!({"state": "running"})).await;
    let before = info(&worker, "JOBS_STATE").await;
    let ensured = async || Topology::default().ensure(&worker.clone().into()).await;
    // Several consumers may start at the same time.
    let (one, two) = tokio::join!(ensured(), ensured());
    one.unwrap();
    two.unwrap();
    let after = info(&worker, "JOBS_STATE").await;
    let mut expected = before["config"].clone();
    let subjects = expected["subjects"].as_array_mut().unwrap();
    for missing in ["jobs.overdue.*.*", "jobs.kind.*", "jobs.cron.*"] {
        subjects.push(json!(missing));
    }
    for exponent in 0..=25 {
        subjects.push(json!(format!("jobs-ended-{}.state.*", 1 << exponent)));
    }
    expected["republish"] = json!({"src": "*.state.*", "dest": "jobs.events.{{wildcard(2)}}"});
    expected["metadata"]["jobs.revision"] = json!("5");
    assert_eq!(after["config"], expected);
    let record = client::record(&worker.clone().into(), id).await.unwrap();
    assert_eq!(record.unwrap().state, common::JobState::Running);
    put(
        &worker,
        "jobs.overdue.1.a".to_owned(),
        HeaderMap::new(),
        String::new(),
    )
    .await;
    ensured().await.unwrap();
}

#[tokio::test]
async fn what_a_later_version_declared_is_left_as_it_is() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let client = worker.clone().into();
    let topology = Topology::default();
    topology.ensure(&client).await.unwrap();
    let mut later = info(&worker, "JOBS").await["config"].take();
    later["max_bytes"] = json!(1_000_000);
    later["metadata"]["jobs.revision"] = json!("1000");
    update(&worker, "JOBS", &later).await;
    topology.ensure(&client).await.unwrap();
    let config = info(&worker, "JOBS").await["config"].take();
    assert_eq!(config["max_bytes"], 1_000_000);
    assert_eq!(config["metadata"]["jobs.revision"], "1000");
}

#[tokio::test]
async fn limits_are_changed_on_a_live_stream_and_a_live_durable_consumer() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let client = worker.clone().into();
    let small = Topology {
        limits: Limits {
            jobs_bytes: 1_000_000,
        },
        ..Topology::default()
    };
    small.ensure(&client).await.unwrap();
    queue(&nats.connect_as("gateway").await, "echo", 3).await;
    let kind = "echo".parse().unwrap();
    durable_consumer_with(&worker, "echo", &json!({"max_ack_pending": 7})).await;

    let topology = Topology::default();
    topology.ensure(&client).await.unwrap();
    topology
        .ensure_consumer(&client, Stream::Jobs, &kind, None)
        .await
        .unwrap();
    let stream = info(&worker, "JOBS").await;
    assert_eq!(stream["config"]["max_bytes"], topology.limits.jobs_bytes);
    assert_eq!(stream["state"]["messages"], 3);
    let subject = "$JS.API.CONSUMER.INFO.JOBS.echo";
    let answer = worker.request(subject, "".into()).await.unwrap();
    let consumer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(consumer["config"]["max_ack_pending"], 65_536);
    assert_eq!(consumer["num_pending"], 3);
}

#[tokio::test]
async fn a_durable_consumer_is_compared_with_its_declaration_without_its_pause() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let client = worker.clone().into();
    let topology = Topology::default();
    topology.ensure(&client).await.unwrap();
    let kind = "mail.send".parse().unwrap();
    let (one, other): (Timestamp, Timestamp) = (
        "2100-01-01T00:00:00Z".parse().unwrap(),
        "2101-01-01T00:00:00Z".parse().unwrap(),
    );
    let ensure = async |until| {
        topology
            .ensure_consumer(&client, Stream::Jobs, &kind, until)
            .await
            .unwrap();
        let subject = "$JS.API.CONSUMER.INFO.JOBS.mail=send";
        let answer = worker.request(subject, "".into()).await.unwrap();
        let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        (info["paused"] == true).then(|| info["config"]["pause_until"].clone())
    };
    let pause = async |until| {
        let paused = kind_settings::pause(&client, Stream::Jobs, "mail=send", until).await;
        paused.unwrap();
    };
    // A new one is paused as asked for. Later its pause is another's to change.
    assert_eq!(ensure(Some(one)).await, Some(json!(one)));
    for until in [None, Some(one), Some(other)] {
        assert_eq!(ensure(until).await, Some(json!(one)));
    }
    pause(None).await;
    for until in [None, Some(one)] {
        assert_eq!(ensure(until).await, None);
    }
    // Nor does a change of other settings end it.
    pause(Some(one)).await;
    let delete = "$JS.API.CONSUMER.DELETE.JOBS.mail=send";
    let admin = nats.connect_as("admin").await;
    admin.request(delete, "".into()).await.unwrap();
    let settings = json!({"max_ack_pending": 7, "pause_until": one});
    durable_consumer_with(&worker, "mail.send", &settings).await;
    assert_eq!(ensure(None).await, Some(json!(one)));
}

#[tokio::test]
async fn subjects_that_cannot_be_added_are_named_with_what_it_takes() {
    let topology = Topology::default();
    let open = NatsServer::builder().open().start().await;
    let worker = open.connect_as("worker").await;
    make_older(&worker, &[]).await;
    // Somebody else has the subjects already.
    let other = json!({"name": "OTHERS", "subjects": ["jobs.overdue.*.*"]}).to_string();
    let made = worker.request("$JS.API.STREAM.CREATE.OTHERS", other.into());
    made.await.unwrap();
    let error = topology.ensure(&worker.into()).await.unwrap_err();
    let text = format!("{error:#}");
    for part in [r#""jobs.overdue.*.*""#, "$JS.API.STREAM.UPDATE.JOBS_STATE"] {
        assert!(text.contains(part), "{text}");
    }
}

/// Changes a stream.
async fn update(worker: &Client, stream: &str, config: &serde_json::Value) {
    let subject = format!("$JS.API.STREAM.UPDATE.{stream}");
    let answer = worker.request(subject, config.to_string().into());
    let answer: serde_json::Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// Makes the durable consumer of a kind, as a consumer does that serves it.
async fn durable_consumer(worker: &Client, kind: &str) {
    durable_consumer_with(worker, kind, &json!({})).await;
}

/// The same with some settings of its own: the others are those that are declared.
async fn durable_consumer_with(worker: &Client, kind: &str, settings: &serde_json::Value) {
    let name = kind.replace('.', "=");
    let filter = format!("jobs.durable.*.*.*.{kind}");
    let mut config = json!({
        "durable_name": name, "ack_policy": "explicit", "filter_subject": filter,
        "ack_wait": 15_000_000_000_u64, "max_deliver": 1000, "max_waiting": 4096,
    });
    for (field, value) in settings.as_object().unwrap() {
        config[field] = value.clone();
    }
    let request = json!({"stream_name": "JOBS", "config": config, "action": "create"});
    let subject = format!("$JS.API.CONSUMER.CREATE.JOBS.{name}.{filter}");
    worker
        .request(subject, request.to_string().into())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_waits_of_each_kind_is_told_for_more_kinds_than_one_answer_holds() {
    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let worker = nats.connect_as("worker").await;
    for number in 0..300 {
        durable_consumer(&worker, &format!("kind.{number}")).await;
    }
    let submitter = submitter(&gateway);
    for kind in ["kind.7", "kind.299", "kind.7"] {
        let job = job(&format!(r#"{{"kind":"{kind}"}}"#));
        submitter.submit(&job).await.unwrap();
    }
    // One of them is with a consumer.
    let inbox = worker.new_inbox();
    let mut pulled = worker.subscribe(inbox.clone()).await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.JOBS.kind=7";
    worker
        .publish_with_reply(next, inbox, "1".into())
        .await
        .unwrap();
    futures_util::StreamExt::next(&mut pulled).await.unwrap();

    let all = queues(&gateway.clone().into(), 1000).await.unwrap();
    assert_eq!((all.queues.len(), all.waiting), (300, 2));
    let few = queues(&gateway.clone().into(), 2).await.unwrap();
    let few: Vec<_> = few
        .queues
        .iter()
        .map(|queue| {
            let oldest = queue.oldest.is_some();
            (queue.kind.as_str(), queue.waiting, queue.running, oldest)
        })
        .collect();
    assert_eq!(few, [("kind.7", 1, 1, true), ("kind.299", 1, 0, true)]);
}

/// The kinds, with how many wait of each, whether there may be more, and whether it is served.
fn waiting(queues: &Queues) -> Vec<(&str, u64, bool, Option<bool>)> {
    let rows = queues.queues.iter();
    let rows = rows.map(|queue| {
        let kind = queue.kind.as_str();
        (kind, queue.waiting, queue.at_least, queue.served)
    });
    rows.collect()
}

#[tokio::test]
async fn jobs_of_kinds_that_nobody_serves_are_counted_exactly_as_long_as_they_are_few() {
    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let worker = nats.connect_as("worker").await;
    let mut serves = worker.subscribe("jobs.serves.echo").await.unwrap();
    let _says_nothing = worker.subscribe("jobs.serves.mute").await.unwrap();
    worker.flush().await.unwrap();
    let consumer = worker.clone();
    tokio::spawn(async move {
        while let Some(question) = serves.next().await {
            let reply = question.reply.unwrap();
            consumer.publish(reply, "".into()).await.unwrap();
        }
    });
    durable_consumer(&worker, "echo").await;
    durable_consumer(&worker, "mute").await;
    queue(&gateway, "echo", 2).await;
    queue(&gateway, "mute", 1).await;
    queue(&gateway, "mail.send", 3).await;
    // Its time has come, and nobody takes it either.
    let id = JobId::generate();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Schedule", "@at 2026-01-31T09:30:00Z");
    headers.insert(
        "Nats-Schedule-Target",
        format!("jobs.due.{id}.normal.1.mail.send"),
    );
    let later = common::subjects::later(id);
    put(&worker, later, headers, "{}".to_owned()).await;
    let few = eventually(DEADLINE, "the job that is due", async || {
        let few = queues(&gateway.clone().into(), 10).await.unwrap();
        (few.waiting > 6).then_some(few)
    })
    .await;
    assert_eq!(
        waiting(&few),
        [
            ("mail.send", 4, false, Some(false)),
            ("echo", 2, false, Some(true)),
            // Nobody says so in time: it is not known.
            ("mute", 1, false, None)
        ]
    );
    assert_eq!(few.waiting, 7);
    assert!(few.queues[0].oldest.is_some());
    assert_eq!(queues(&gateway.clone().into(), 1).await.unwrap().waiting, 7);

    // More than are looked at one by one.
    queue(&gateway, "report", 9000).await;
    let more = queues(&gateway.clone().into(), 10).await.unwrap();
    assert_eq!(waiting(&more)[0], ("report", 9000, false, Some(false)));
    assert_eq!(more.waiting, 9007);

    // More than the server is asked for: all are counted, but not by kind.
    queue(&gateway, "report", 2000).await;
    let many = queues(&gateway.clone().into(), 10).await.unwrap();
    let of_reports = waiting(&many)[0];
    assert_eq!((of_reports.0, of_reports.2), ("report", true));
    assert_eq!(many.waiting, 11_007);
}

#[tokio::test]
async fn the_guarantees_in_force_are_told() {
    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let all = guarantees(&gateway.clone().into(), Topology::default())
        .await
        .unwrap();
    assert!(all.jetstream);
    assert_eq!((all.synced, all.replicas), (Some(true), Some(1)));
    assert_eq!(all.findings, Vec::<String>::new());
    let wanted = Topology {
        replicas: Some(3),
        ..Topology::default()
    };
    let all = guarantees(&gateway.clone().into(), wanted).await.unwrap();
    assert!(all.findings[0].contains("1 servers"), "{:?}", all.findings);
}
