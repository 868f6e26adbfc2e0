//! Jobs of high priority overtake others of their kind, those of low priority are not starved, and none is
//! lost when the priorities of a kind begin to be heeded, whatever breaks meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use client::NatsClient;
use client::kinds::{self, Pause};
use common::{JobId, JobKind, JobState, Priority, Timestamp, subjects};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane, succeeded};

/// Within this time consumers follow a setting, also one that they were not told of.
const FOLLOWED: Duration = Duration::from_secs(30);

/// What is appended to the token of a kind in the names of the durable consumers of its priorities.
const OF_PRIORITY: [&str; 3] = ["~high", "~normal", "~low"];

fn job(kind: &str, priority: Priority) -> Value {
    json!({"kind": kind, "priority": priority})
}

fn nats(lane: &Lane) -> NatsClient {
    lane.admin.clone().into()
}

async fn heed(lane: &Lane, kind: &str) {
    let setting = kinds::heed_priorities(&nats(lane), &kind.parse().unwrap(), None).await;
    assert!(setting.unwrap().priorities);
}

/// Asks JetStream, as somebody who may do anything.
async fn ask(lane: &Lane, subject: String, question: &Value) -> Value {
    let question = if question.is_null() {
        String::new()
    } else {
        question.to_string()
    };
    let answer = lane.admin.request(subject, question.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn info(lane: &Lane, consumer: &str) -> Value {
    let subject = format!("$JS.API.CONSUMER.INFO.JOBS.{consumer}");
    ask(lane, subject, &Value::Null).await
}

/// The names of all durable consumers on `JOBS`.
async fn consumers(lane: &Lane) -> Vec<String> {
    let subject = "$JS.API.CONSUMER.NAMES.JOBS".to_owned();
    let names = ask(lane, subject, &Value::Null).await;
    serde_json::from_value(names["consumers"].clone()).unwrap()
}

fn token(kind: &str) -> String {
    kind.parse::<JobKind>().unwrap().to_token()
}

/// The subjects of a priority of a kind.
fn filter(kind: &str, priority: Priority) -> String {
    subjects::durable_of_priority(priority, &kind.parse().unwrap())
}

/// The subjects that the durable consumer of a kind has when its priorities have their own.
fn none(kind: &str) -> String {
    format!("jobs.durable.*.none.*.{kind}")
}

/// Waits until each priority of a kind has a durable consumer that delivers.
async fn separated(lane: &Lane, kind: &str) {
    for (suffix, priority) in OF_PRIORITY.iter().zip(Priority::ALL) {
        let name = format!("{}{suffix}", token(kind));
        eventually(FOLLOWED, &name, async || {
            let info = info(lane, &name).await;
            let delivers = info["paused"] != true;
            let is_narrow = info["config"]["filter_subject"] == filter(kind, priority);
            (delivers && is_narrow).then_some(())
        })
        .await;
    }
}

/// Waits until a consumer pulls jobs of all priorities of a kind.
async fn pulled(lane: &Lane, kind: &str) {
    separated(lane, kind).await;
    for suffix in OF_PRIORITY {
        let name = format!("{}{suffix}", token(kind));
        eventually(FOLLOWED, &format!("a pull of {name}"), async || {
            (info(lane, &name).await["num_waiting"] != 0).then_some(())
        })
        .await;
    }
}

/// The priorities of the runs, in their order.
fn order(lane: &Lane, submitted: &BTreeMap<JobId, Priority>) -> Vec<Priority> {
    let runs = lane.ledger().0;
    runs.iter()
        .filter_map(|run| submitted.get(&run.id).copied())
        .collect()
}

async fn submit(
    lane: &Lane,
    kind: &str,
    counts: [usize; 3],
    submitted: &mut BTreeMap<JobId, Priority>,
) {
    for (priority, count) in Priority::ALL.into_iter().zip(counts).rev() {
        let jobs = (0..count).map(|_| job(kind, priority));
        let ids = lane.submit_all(jobs).await;
        submitted.extend(ids.into_iter().map(|id| (id, priority)));
    }
}

#[tokio::test]
async fn a_high_job_starts_with_the_next_free_slot_before_two_thousand_low_ones() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let first = lane.submit(job("held", Priority::Normal)).await;
    lane.becomes(first, JobState::Succeeded).await;
    heed(&lane, "held").await;
    pulled(&lane, "held").await;
    lane.hold(1);
    let low = lane
        .submit_all((0..2000).map(|_| job("held", Priority::Low)))
        .await;
    lane.runs(5).await;
    let high = lane.submit(job("held", Priority::High)).await;
    lane.release(1);
    lane.begun(high, 1, DEADLINE).await;
    let runs = lane.ledger().0;
    let place = runs.iter().position(|run| run.id == high).unwrap();
    assert!(place < 9, "{place} jobs started before it");
    let mut all = low;
    all.push(high);
    let ended = lane.all_end(&all, DEADLINE * 3).await;
    succeeded(&ended);
    lane.account(&all, &ended, 0..=0);
    lane.queue_empties().await;
}

#[tokio::test]
async fn while_all_wait_slots_are_divided_by_weight_with_one_slot_and_with_several() {
    for concurrency in ["1", "4"] {
        let lane = Lane::start().await;
        let mut first = lane.consumer("first", &[]).await;
        heed(&lane, "note").await;
        separated(&lane, "note").await;
        stop(&mut first).await;
        let mut submitted = BTreeMap::new();
        submit(&lane, "note", [400, 400, 400], &mut submitted).await;
        let _consumer = lane.consumer("only", &["--concurrency", concurrency]).await;
        let taken = lane.runs(240).await.0.len();
        assert!(taken < 500, "{taken}: it was looked at too late");
        let order = order(&lane, &submitted);
        let of = |priority| order[..240].iter().filter(|it| **it == priority).count();
        let counts = Priority::ALL.map(of);
        println!("{concurrency} slots: {counts:?} of 160, 60, 20");
        assert!((150..=170).contains(&counts[0]), "{counts:?}");
        assert!((50..=70).contains(&counts[1]), "{counts:?}");
        assert!((15..=28).contains(&counts[2]), "{counts:?}");
        // Unused shares go to whoever has jobs.
        let ids: Vec<_> = submitted.into_keys().collect();
        let ended = lane.all_end(&ids, DEADLINE * 2).await;
        succeeded(&ended);
        lane.account(&ids, &ended, 0..=0);
    }
}

#[tokio::test]
async fn consumers_heed_priorities_by_themselves_of_the_kinds_that_have_some_and_of_no_other() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let others = lane
        .submit_all((0..20).map(|_| job("mail.send", Priority::Normal)))
        .await;
    let high = lane.submit(job("note", Priority::High)).await;
    succeeded(&lane.all_end(&others, DEADLINE).await);
    lane.becomes(high, JobState::Succeeded).await;
    pulled(&lane, "note").await;
    let mut names = consumers(&lane).await;
    names.retain(|name| name.starts_with("mail") || name.contains('~'));
    names.sort();
    assert_eq!(names, ["mail=send", "note~high", "note~low", "note~normal"]);
    let setting = kinds::get(&nats(&lane), &"note".parse().unwrap()).await;
    let setting = setting.unwrap().unwrap();
    assert_eq!(setting.by.as_deref(), Some("only"), "{setting:?}");

    let mut submitted = BTreeMap::new();
    submit(&lane, "note", [10, 10, 10], &mut submitted).await;
    let mut all: Vec<_> = submitted.keys().copied().collect();
    // The setting is lost, or is none any more; the durable consumers are there.
    ask(&lane, "jobs.kind.note".to_owned(), &json!([])).await;
    stop(&mut consumer).await;
    lane.fixture.server.connect_as("admin").await;
    submit(&lane, "note", [10, 10, 10], &mut submitted).await;
    let _next = lane.consumer("next", &[]).await;
    all.extend(
        submitted
            .keys()
            .copied()
            .filter(|id| !all.contains(id))
            .collect::<Vec<_>>(),
    );
    let ended = lane.all_end(&all, DEADLINE).await;
    succeeded(&ended);
    lane.account(&all, &ended, 0..=0);
    let setting = kinds::get(&nats(&lane), &"note".parse().unwrap()).await;
    assert!(setting.unwrap().unwrap().priorities);
    lane.queue_empties().await;
}

/// What a consumer had done of the change when it was killed.
async fn steps(lane: &Lane, kind: &str, steps: usize) {
    let name = token(kind);
    if steps >= 1 {
        heed(lane, kind).await;
    }
    if steps >= 2 {
        let until = json!({"pause_until": "2200-01-01T00:00:00Z"});
        let paused = ask(lane, format!("$JS.API.CONSUMER.PAUSE.JOBS.{name}"), &until).await;
        assert_eq!(paused["paused"], true, "{paused}");
    }
    let wide = info(lane, &name).await;
    let create = async |name: &str, filter: String, config: Value, action: &str| {
        let subject = format!("$JS.API.CONSUMER.CREATE.JOBS.{name}.{filter}");
        let question = json!({"stream_name": "JOBS", "config": config, "action": action});
        let answer = ask(lane, subject, &question).await;
        assert!(answer["error"].is_null(), "{answer}");
    };
    let new = OF_PRIORITY.into_iter().zip(Priority::ALL);
    for (suffix, priority) in new.take(steps.saturating_sub(2)) {
        let mut config = wide["config"].clone();
        let name = format!("{name}{suffix}");
        config["name"] = json!(name);
        config["durable_name"] = json!(name);
        config["filter_subject"] = json!(filter(kind, priority));
        config["deliver_policy"] = json!("by_start_sequence");
        config["opt_start_seq"] = json!(wide["delivered"]["stream_seq"].as_u64().unwrap() + 1);
        config.as_object_mut().unwrap().remove("pause_until");
        create(&name, filter(kind, priority), config, "create").await;
    }
    if steps >= 6 {
        let mut config = wide["config"].clone();
        config["filter_subject"] = json!(none(kind));
        create(&name, none(kind), config, "update").await;
    }
}

#[tokio::test]
async fn consumers_that_are_killed_at_any_step_of_the_change_lose_no_job_and_run_none_twice() {
    const KINDS: [&str; 6] = ["step.1", "step.2", "step.3", "step.4", "step.5", "step.6"];
    let mut lane = Lane::start().await;
    lane.hold(1);
    let all_slots = [
        "--concurrency",
        "60",
        "--kinds",
        "step.1,step.2,step.3,step.4,step.5,step.6",
    ];
    let mut mortal = lane.consumer("mortal", &all_slots).await;
    let mut submitted = BTreeMap::new();
    for kind in KINDS {
        submit(&lane, kind, [8, 8, 8], &mut submitted).await;
    }
    let begun = lane.runs(60).await.jobs();
    mortal.kill().await;
    for (index, kind) in KINDS.into_iter().enumerate() {
        steps(&lane, kind, index + 1).await;
        submit(&lane, kind, [8, 8, 8], &mut submitted).await;
    }
    // The server also forgets what it has not stored.
    lane.fixture.server.kill().await;
    lane.fixture.server.start_again().await;
    let admin = lane.fixture.server.connect_as("admin").await;
    lane.admin = admin;
    lane.release(1);
    let _one = lane.consumer("one", &[]).await;
    let _two = lane.consumer("two", &[]).await;
    let ids: Vec<_> = submitted.keys().copied().collect();
    let ended = lane.all_end(&ids, ACK_WAIT * 2 + DEADLINE).await;
    succeeded(&ended);
    lane.account(&ids, &ended, begun.len()..=begun.len());
    for (id, runs) in lane.ledger().jobs() {
        let expected = 1 + usize::from(begun.contains_key(&id));
        assert_eq!(runs, expected, "{id} of {:?}", submitted[&id]);
    }
    for kind in KINDS {
        separated(&lane, kind).await;
    }
    lane.queue_empties().await;
}

#[tokio::test]
async fn a_job_that_was_delivered_before_the_change_stays_pending_while_others_are_purged() {
    let lane = Lane::start().await;
    let mut first = lane.consumer("first", &[]).await;
    stop(&mut first).await;
    let jobs: Vec<_> = (0..3).map(|_| job("note", Priority::Normal)).collect();
    let ids = lane.submit_all(jobs).await;
    // Somebody who cannot be reached has got them.
    let mut pulled = lane.admin.subscribe("unreachable").await.unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.JOBS.{}", token("note"));
    let admin = &lane.admin;
    admin
        .publish_with_reply(next, "unreachable", r#"{"batch":3}"#.into())
        .await
        .unwrap();
    let mut acks = Vec::new();
    for _ in &ids {
        let message = tokio::time::timeout(DEADLINE, pulled.next()).await.unwrap();
        acks.push(message.unwrap().reply.unwrap());
    }
    heed(&lane, "note").await;
    let _consumer = lane.consumer("second", &[]).await;
    separated(&lane, "note").await;
    // The ack floor moves to the next one, and what is below it is purged.
    admin.publish(acks.remove(0), "+ACK".into()).await.unwrap();
    let ended = lane.all_end(&ids[1..], ACK_WAIT * 2 + DEADLINE).await;
    succeeded(&ended);
}

#[tokio::test]
async fn under_load_and_kills_the_change_loses_no_job() {
    let lane = Lane::start().await;
    let mut mortal = lane.consumer("mortal", &[]).await;
    let mut other = lane.consumer("other", &[]).await;
    let mut submitted = BTreeMap::new();
    submit(&lane, "note", [0, 300, 0], &mut submitted).await;
    lane.runs(50).await;
    heed(&lane, "note").await;
    for kill in [true, false, true] {
        submit(&lane, "note", [200, 200, 200], &mut submitted).await;
        if kill {
            lane.runs(submitted.len() / 3).await;
            mortal.kill().await;
            mortal = lane.consumer("mortal", &[]).await;
        } else {
            separated(&lane, "note").await;
            other.kill().await;
            other = lane.consumer("other", &[]).await;
        }
    }
    let ids: Vec<_> = submitted.into_keys().collect();
    let ended = lane.all_end(&ids, ACK_WAIT + DEADLINE * 2).await;
    succeeded(&ended);
    // Three consumers were killed, with their four slots and what waited for these.
    lane.account(&ids, &ended, 0..=24);
    lane.queue_empties().await;
    stop(&mut mortal).await;
    stop(&mut other).await;
}

#[tokio::test]
async fn a_pause_holds_back_all_priorities_and_what_is_made_again_meanwhile() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    let mut consumer = lane.consumer("only", &[]).await;
    let kind: JobKind = "note".parse().unwrap();
    // The change and a pause at the same time.
    kinds::pause(&nats(&lane), &kind, &Pause::default())
        .await
        .unwrap();
    let mut submitted = BTreeMap::new();
    submit(&lane, "note", [2, 2, 2], &mut submitted).await;
    heed(&lane, "note").await;
    let is_paused = async |name: &str| {
        eventually(FOLLOWED, &format!("a pause of {name}"), async || {
            (info(&lane, name).await["paused"] == true).then_some(())
        })
        .await;
    };
    for suffix in OF_PRIORITY {
        is_paused(&format!("note{suffix}")).await;
    }
    eventually(FOLLOWED, "the narrow filter", async || {
        let narrow = none("note");
        (info(&lane, "note").await["config"]["filter_subject"] == narrow).then_some(())
    })
    .await;
    submit(&lane, "note", [2, 2, 2], &mut submitted).await;
    for suffix in ["~high", ""] {
        ask(
            &lane,
            format!("$JS.API.CONSUMER.DELETE.JOBS.note{suffix}"),
            &Value::Null,
        )
        .await;
    }
    consumer
        .wait_for_line(|line| line.contains("was created again"))
        .await;
    for suffix in OF_PRIORITY {
        is_paused(&format!("note{suffix}")).await;
    }
    stop(&mut consumer).await;
    let _next = lane.consumer("next", &[]).await;
    let others = lane
        .submit_all((0..20).map(|_| job("mail.send", Priority::Normal)))
        .await;
    succeeded(&lane.all_end(&others, DEADLINE).await);
    assert_eq!(lane.ledger().0.len(), 20, "a paused job was started");
    kinds::resume(&nats(&lane), &kind, None).await.unwrap();
    let ids: Vec<_> = submitted.into_keys().collect();
    let ended = lane.all_end(&ids, DEADLINE).await;
    succeeded(&ended);
    lane.account(&ids, &ended, 0..=0);
    separated(&lane, "note").await;
    lane.queue_empties().await;
}

#[tokio::test]
async fn what_is_seen_of_the_queues_counts_all_priorities() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    heed(&lane, "note").await;
    pulled(&lane, "note").await;
    stop(&mut consumer).await;
    let mut submitted = BTreeMap::new();
    submit(&lane, "note", [2, 3, 4], &mut submitted).await;
    let queues = client::queues(&nats(&lane), 10).await.unwrap();
    assert_eq!(queues.waiting, 9);
    let queue = queues
        .queues
        .iter()
        .find(|queue| queue.kind.as_str() == "note");
    let queue = queue.unwrap();
    let counts = (queue.waiting, queue.waiting_high, queue.waiting_low);
    assert_eq!(counts, (9, 2, 4), "{queue:?}");
    assert!(queue.oldest.is_some(), "{queue:?}");
}

#[tokio::test]
async fn a_message_without_a_priority_becomes_a_dead_letter_also_when_priorities_are_heeded() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    heed(&lane, "note").await;
    pulled(&lane, "note").await;
    let id = JobId::generate();
    let subject = format!("jobs.durable.{id}.urgent.1.note");
    let sequence = lane
        .publish(subject, async_nats::HeaderMap::new(), "{}")
        .await
        .unwrap();
    let at = Timestamp::now();
    let id = JobId::of_unreadable(sequence);
    let record = lane
        .record_that(id, FOLLOWED, "dead", |record| {
            record.state == JobState::Dead
        })
        .await;
    println!("dead after {} ms", record.at.milliseconds_ahead_of(at));
    assert!(lane.dead_letter(id, "note").await.is_some());
    lane.queue_empties().await;
}
