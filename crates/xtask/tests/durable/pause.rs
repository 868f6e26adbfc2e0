//! A paused kind accepts jobs, and none of them is started, whatever breaks meanwhile.

use std::time::Duration;

use client::NatsClient;
use client::kinds::{self, Pause, PauseEnd};
use common::{JobId, JobState, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::fixture::stop;
use crate::lane::{Lane, succeeded};

/// Within this time consumers see that the server does not do what a setting says.
const SEEN: Duration = Duration::from_secs(25);

/// The durable consumers of the kind `note`.
const STREAMS: [&str; 2] = ["JOBS", "JOBS_LATER"];

fn note() -> Value {
    json!({"kind": "note"})
}

async fn pause(lane: &Lane, end: PauseEnd) {
    let pause = Pause {
        end,
        reason: Some("a test".to_owned()),
        by: Some("somebody".to_owned()),
    };
    let client: NatsClient = lane.admin.clone().into();
    let kind = "note".parse().unwrap();
    let setting = kinds::pause(&client, &kind, &pause).await.unwrap();
    assert!(setting.paused);
}

async fn resume(lane: &Lane) {
    let client: NatsClient = lane.admin.clone().into();
    let kind = "note".parse().unwrap();
    let setting = kinds::resume(&client, &kind, None).await.unwrap();
    assert!(!setting.paused);
}

/// Asks JetStream, as somebody who may do anything.
async fn ask(lane: &Lane, subject: String, question: impl Into<bytes::Bytes>) -> Value {
    let answer = lane.admin.request(subject, question.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    answer
}

async fn info(lane: &Lane, stream: &str) -> Value {
    info_of(lane, stream, "note").await
}

async fn info_of(lane: &Lane, stream: &str, consumer: &str) -> Value {
    let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
    ask(lane, subject, "").await
}

fn is_paused(info: &Value) -> bool {
    info["paused"].as_bool().unwrap_or(false)
}

/// Waits until both durable consumers are paused, or until both are not.
async fn server_says(lane: &Lane, paused: bool) {
    server_says_of(lane, "note", paused).await;
}

/// The same for another kind.
async fn server_says_of(lane: &Lane, kind: &str, paused: bool) {
    for stream in STREAMS {
        let what = format!("paused of {stream} to be {paused} for {kind}");
        eventually(SEEN, &what, async || {
            (is_paused(&info_of(lane, stream, kind).await) == paused).then_some(())
        })
        .await;
    }
}

/// The server says so already.
async fn server_says_now(lane: &Lane, kind: &str, paused: bool) {
    for stream in STREAMS {
        let info = info_of(lane, stream, kind).await;
        assert_eq!(is_paused(&info), paused, "{info}");
    }
}

async fn pause_all(lane: &Lane) {
    let client: NatsClient = lane.admin.clone().into();
    let setting = kinds::pause_all(&client, &Pause::default()).await.unwrap();
    assert!(setting.paused);
}

async fn resume_all(lane: &Lane) {
    let client: NatsClient = lane.admin.clone().into();
    let setting = kinds::resume_all(&client, None).await.unwrap();
    assert!(!setting.paused);
}

/// Why a job has not ended, as words.
async fn why(lane: &Lane, id: JobId) -> Vec<&'static str> {
    let client: NatsClient = lane.admin.clone().into();
    let why = client::why(&client, id).await.unwrap().unwrap();
    why.reasons.iter().map(client::Reason::name).collect()
}

/// Jobs of another kind are run: so those of the paused kind would have been run, too.
async fn others_run(lane: &Lane) {
    for _ in 0..3 {
        let others = lane
            .submit_all((0..10).map(|_| json!({"kind": "mail.send"})))
            .await;
        succeeded(&lane.all_end(&others, DEADLINE).await);
    }
}

/// No run of the job has begun.
fn waits(lane: &Lane, id: JobId) {
    assert!(lane.ledger().of(id).is_empty(), "it was started");
}

#[tokio::test]
async fn under_load_nothing_is_started_and_what_runs_ends_until_the_kind_is_resumed() {
    let lane = Lane::start().await;
    let mut one = lane.consumer("one", &[]).await;
    let mut two = lane.consumer("two", &[]).await;
    let held = "held".parse().unwrap();
    lane.hold(1);
    let running = lane
        .submit_all((0..2).map(|_| json!({"kind": "held"})))
        .await;
    for id in &running {
        lane.begun(*id, 1, DEADLINE).await;
    }
    let mut jobs = lane.submit_all((0..600).map(|_| note())).await;
    lane.runs(50).await;
    pause(&lane, PauseEnd::Resumed).await;
    let client: NatsClient = lane.admin.clone().into();
    kinds::pause(&client, &held, &Pause::default())
        .await
        .unwrap();
    // What the consumers had received is run or given back.
    for name in ["one", "two"] {
        lane.fixture
            .status_of(name, |status| {
                u64::from(status.in_flight) + status.waiting <= 2
            })
            .await;
    }
    eventually(DEADLINE, "the end of what runs", async || {
        let info = info(&lane, "JOBS").await;
        (info["num_ack_pending"] == 0).then_some(())
    })
    .await;
    let begun = lane.ledger().0.len();
    jobs.extend(lane.submit_all((0..20).map(|_| note())).await);
    let scheduled = json!({"kind": "note", "run_at": Timestamp::now()});
    jobs.push(lane.submit(scheduled).await);
    others_run(&lane).await;
    assert_eq!(lane.ledger().0.len(), begun + 30, "jobs were started");
    assert!(begun < 600, "it was paused too late");

    // The end of a job that runs is stored as ever.
    lane.release(1);
    succeeded(&lane.all_end(&running, DEADLINE).await);
    let queues = client::queues(&client, 10).await.unwrap().queues;
    let queue = queues.iter().find(|queue| queue.kind.as_str() == "note");
    let setting = queue.unwrap().paused.clone().unwrap();
    assert_eq!(setting.reason.as_deref(), Some("a test"));
    assert_eq!(setting.by.as_deref(), Some("somebody"));

    resume(&lane).await;
    let ended = lane.all_end(&jobs, 2 * DEADLINE).await;
    succeeded(&ended);
    lane.account(&jobs, &ended, 0..=0);
    let listed = kinds::list(&client).await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|(kind, setting)| (kind.as_str(), setting.paused))
        .collect();
    assert_eq!(listed, [("held", true), ("note", false)]);
    stop(&mut one).await;
    stop(&mut two).await;
}

#[tokio::test]
async fn a_pause_with_an_end_ends_by_itself() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let length = Duration::from_secs(3);
    let paused = Timestamp::now();
    pause(&lane, PauseEnd::After(length)).await;
    let at_once = lane.submit(note()).await;
    let run_at = Timestamp::now().shifted(300);
    let later = lane.submit(json!({"kind": "note", "run_at": run_at})).await;
    for id in [at_once, later] {
        let record = lane.becomes(id, JobState::Succeeded).await;
        assert!(record.at >= paused.after(length), "{record:?}");
    }
    let client: NatsClient = lane.admin.clone().into();
    let queues = client::queues(&client, 10).await.unwrap().queues;
    assert!(queues.iter().all(|queue| queue.paused.is_none()));
    let past = Pause {
        end: PauseEnd::At(paused),
        ..Pause::default()
    };
    let refused = kinds::pause(&client, &"note".parse().unwrap(), &past).await;
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(refused.contains("would end in the past"), "{refused}");
}

#[tokio::test]
async fn a_pause_survives_a_restart_of_the_consumer_and_of_the_server() {
    let mut lane = Lane::start().await;
    let mut first = lane.consumer("first", &[]).await;
    pause(&lane, PauseEnd::Resumed).await;
    let id = lane.submit(note()).await;
    stop(&mut first).await;
    let mut second = lane.consumer("second", &[]).await;
    others_run(&lane).await;
    waits(&lane, id);
    second.kill().await;
    lane.fixture.server.kill().await;
    lane.fixture.server.start_again().await;
    let _third = lane.consumer("third", &[]).await;
    others_run(&lane).await;
    waits(&lane, id);
    resume(&lane).await;
    lane.becomes(id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_durable_consumer_that_is_made_again_is_paused_from_its_first_moment() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    let mut consumer = lane.consumer("only", &[]).await;
    pause(&lane, PauseEnd::Resumed).await;
    let id = lane.submit(note()).await;
    for stream in STREAMS {
        ask(&lane, format!("$JS.API.CONSUMER.DELETE.{stream}.note"), "").await;
    }
    consumer
        .wait_for_lines(2, |line| line.contains("was created again"))
        .await;
    for stream in STREAMS {
        let info = info(&lane, stream).await;
        assert_eq!(info["paused"], true, "{info}");
    }
    others_run(&lane).await;
    waits(&lane, id);
    assert_eq!(info(&lane, "JOBS").await["delivered"]["consumer_seq"], 0);
    resume(&lane).await;
    lane.becomes(id, JobState::Succeeded).await;

    // So is one that a consumer makes when it starts.
    stop(&mut consumer).await;
    pause(&lane, PauseEnd::Resumed).await;
    let id = lane.submit(note()).await;
    for stream in STREAMS {
        ask(&lane, format!("$JS.API.CONSUMER.DELETE.{stream}.note"), "").await;
    }
    let _next = lane.consumer("next", &[]).await;
    others_run(&lane).await;
    waits(&lane, id);
    assert_eq!(info(&lane, "JOBS").await["delivered"]["consumer_seq"], 0);
}

#[tokio::test]
async fn consumers_finish_what_a_client_began_and_then_stopped() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let store = async |paused: bool| {
        let setting = json!({"paused": paused, "at": Timestamp::now(), "concurrency": 3});
        ask(&lane, "jobs.kind.note".to_owned(), setting.to_string()).await;
    };
    store(true).await;
    server_says(&lane, true).await;
    let id = lane.submit(note()).await;
    others_run(&lane).await;
    waits(&lane, id);
    // A consumer that starts does so before its first pull.
    stop(&mut consumer).await;
    for stream in STREAMS {
        ask(&lane, format!("$JS.API.CONSUMER.PAUSE.{stream}.note"), "").await;
    }
    server_says(&lane, false).await;
    let _next = lane.consumer("next", &[]).await;
    others_run(&lane).await;
    waits(&lane, id);
    store(false).await;
    lane.becomes(id, JobState::Succeeded).await;
    server_says(&lane, false).await;

    // What a later version has written is kept.
    pause(&lane, PauseEnd::Resumed).await;
    let stored = lane.last("JOBS_STATE", "jobs.kind.note").await.unwrap();
    let stored: Value = serde_json::from_slice(&stored.payload).unwrap();
    assert_eq!(stored["concurrency"], 3, "{stored}");
}

#[tokio::test]
async fn what_is_no_setting_pauses_nothing_and_can_be_replaced() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    // The server stores its own answer there.
    let id = JobId::generate();
    let subject = format!("jobs.durable.{id}.normal.1.note");
    let job = note().to_string();
    let sent = lane
        .operator
        .publish_with_reply(subject, "jobs.kind.note", job.into());
    sent.await.unwrap();
    lane.becomes(id, JobState::Succeeded).await;
    eventually(DEADLINE, "the answer in place of a setting", async || {
        lane.last("JOBS_STATE", "jobs.kind.note").await
    })
    .await;
    stop(&mut consumer).await;
    let _next = lane.consumer("next", &[]).await;
    let id = lane.submit(note()).await;
    lane.becomes(id, JobState::Succeeded).await;

    pause(&lane, PauseEnd::Resumed).await;
    let id = lane.submit(note()).await;
    others_run(&lane).await;
    waits(&lane, id);
    for garbage in ["", "[]", "{\"paused\": true}", "\u{0}"] {
        let subject = subjects::kind_setting(&"fail".parse().unwrap());
        ask(&lane, subject, garbage.to_owned()).await;
        let fail = json!({"kind": "fail", "payload": {"permanent": true}});
        let id = lane.submit(fail).await;
        lane.becomes(id, JobState::Dead).await;
    }
    resume(&lane).await;
    lane.becomes(id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_job_of_a_paused_kind_is_cancelled_at_once() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    pause(&lane, PauseEnd::Resumed).await;
    let cancelled = lane.submit(note()).await;
    let other = lane.submit(note()).await;
    lane.cancel(cancelled).await;
    lane.becomes(cancelled, JobState::Cancelled).await;
    eventually(DEADLINE, "the removal of its message", async || {
        (lane.count("JOBS", "jobs.durable.>").await == 1).then_some(())
    })
    .await;
    resume(&lane).await;
    lane.becomes(other, JobState::Succeeded).await;
    lane.queue_empties().await;
    waits(&lane, cancelled);
}

#[tokio::test]
async fn a_paused_kind_is_not_reported_as_one_that_nobody_serves() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("picky", &["--kinds", "echo"]).await;
    pause(&lane, PauseEnd::Resumed).await;
    lane.submit(note()).await;
    lane.submit(json!({"kind": "refuse"})).await;
    let unserved = |status: &common::ConsumerStatus| {
        let kinds = status.unserved_kinds.iter();
        kinds.map(ToString::to_string).collect::<Vec<_>>()
    };
    lane.fixture
        .status_of("picky", |status| unserved(status) == ["refuse"])
        .await;
    resume(&lane).await;
    lane.fixture
        .status_of("picky", |status| unserved(status) == ["note", "refuse"])
        .await;
}

#[tokio::test]
async fn all_kinds_are_paused_also_new_ones_and_a_kind_that_is_paused_on_its_own_stays_so() {
    let mut lane = Lane::start().await;
    let mut first = lane.consumer("first", &["--kinds", "note,mail.send"]).await;
    pause(&lane, PauseEnd::Resumed).await;
    pause_all(&lane).await;
    for kind in ["note", "mail=send"] {
        server_says_now(&lane, kind, true).await;
    }
    let note = lane.submit(note()).await;
    let mail = lane.submit(json!({"kind": "mail.send"})).await;
    let fail = json!({"kind": "fail", "payload": {"permanent": true}});
    let fail = lane.submit(fail).await;
    assert_eq!(why(&lane, note).await, ["all_paused", "paused"]);
    assert_eq!(why(&lane, mail).await, ["all_paused"]);
    // A kind whose durable consumers are created by now is paused from its first moment.
    let second = lane.consumer("second", &["--kinds", "fail"]).await;
    server_says_now(&lane, "fail", true).await;
    assert_eq!(why(&lane, fail).await, ["all_paused"]);
    let client: NatsClient = lane.admin.clone().into();
    let queues = client::queues(&client, 10).await.unwrap();
    assert!(queues.all_paused.is_some());
    let own = queues.queues.iter().filter(|queue| queue.paused.is_some());
    let own: Vec<_> = own.map(|queue| queue.kind.as_str()).collect();
    assert_eq!(own, ["note"]);

    // It survives the loss of everything.
    first.kill().await;
    drop(second);
    lane.fixture.server.kill().await;
    lane.fixture.server.start_again().await;
    let mut third = lane.consumer("third", &[]).await;
    for kind in ["note", "mail=send", "fail"] {
        server_says_now(&lane, kind, true).await;
        let info = info_of(&lane, "JOBS", kind).await;
        assert_eq!(info["delivered"]["consumer_seq"], 0, "{info}");
    }
    // To resume one kind does not help while all are paused.
    resume(&lane).await;
    server_says_now(&lane, "note", true).await;
    pause(&lane, PauseEnd::After(Duration::from_hours(1))).await;
    let info = info(&lane, "JOBS").await;
    assert_eq!(info["config"]["pause_until"], "2200-01-01T00:00:00Z");
    stop(&mut third).await;
    assert!(lane.ledger().0.is_empty(), "jobs were started");

    let _fourth = lane.consumer("fourth", &[]).await;
    resume_all(&lane).await;
    lane.becomes(mail, JobState::Succeeded).await;
    lane.becomes(fail, JobState::Dead).await;
    server_says_now(&lane, "note", true).await;
    assert_eq!(why(&lane, note).await, ["paused"]);
    waits(&lane, note);
    resume(&lane).await;
    lane.becomes(note, JobState::Succeeded).await;
}

#[tokio::test]
async fn consumers_finish_a_pause_of_all_kinds_that_a_client_began() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let store = async |paused: bool| {
        let setting = json!({"paused": paused, "at": Timestamp::now()});
        let subject = subjects::SETTING_OF_ALL_KINDS.to_owned();
        ask(&lane, subject, setting.to_string()).await;
    };
    // The client was lost after its first write.
    store(true).await;
    for kind in ["note", "mail=send", "held"] {
        server_says_of(&lane, kind, true).await;
    }
    let id = lane.submit(note()).await;
    // Somebody lets a durable consumer deliver while no consumer runs.
    stop(&mut consumer).await;
    for stream in STREAMS {
        ask(&lane, format!("$JS.API.CONSUMER.PAUSE.{stream}.note"), "").await;
    }
    let _next = lane.consumer("next", &[]).await;
    server_says_now(&lane, "note", true).await;
    assert_eq!(info(&lane, "JOBS").await["delivered"]["consumer_seq"], 0);
    waits(&lane, id);
    store(false).await;
    lane.becomes(id, JobState::Succeeded).await;
    for kind in ["note", "mail=send", "held"] {
        server_says_of(&lane, kind, false).await;
    }
}

#[tokio::test]
async fn a_pause_of_all_kinds_ends_by_itself_and_holds_all_priorities() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let client: NatsClient = lane.admin.clone().into();
    let kind = "note".parse().unwrap();
    kinds::heed_priorities(&client, &kind, None).await.unwrap();
    eventually(SEEN, "durable consumers of the priorities", async || {
        let subject = "$JS.API.CONSUMER.INFO.JOBS.note~high";
        let answer = lane.admin.request(subject, "".into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        (answer["error"].is_null() && !is_paused(&answer)).then_some(())
    })
    .await;
    let length = Duration::from_secs(3);
    let began = Timestamp::now();
    let pause = Pause {
        end: PauseEnd::After(length),
        ..Pause::default()
    };
    kinds::pause_all(&client, &pause).await.unwrap();
    let high = json!({"kind": "note", "priority": "high"});
    for id in lane.submit_all([note(), high]).await {
        let record = lane.becomes(id, JobState::Succeeded).await;
        assert!(record.at >= began.after(length), "{record:?}");
    }
    assert_eq!(client::queues(&client, 1).await.unwrap().all_paused, None);
}
