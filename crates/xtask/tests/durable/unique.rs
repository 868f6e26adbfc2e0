//! One job at a time holds a key, whatever breaks, and no key outlives its job.

use std::time::Duration;

use async_nats::HeaderMap;
use client::dead_letters::{self, LeftAsItIs};
use client::{NatsClient, NewJob, Patience, SubmitError, Submitted, Submitter};
use common::{JobId, JobState, Timestamp, subjects};
use futures_util::future::join_all;
use jetstream::{Stream, job_messages, manage, unique_locks};
use serde_json::{Value, json};
use test_support::{DEADLINE, eventually};
use tokio::sync::watch;

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane};

/// Hands unique jobs over as one user on one connection.
struct Sender {
    submitter: Submitter,
    /// Says that the connection is up; the server may be away meanwhile.
    _up: watch::Sender<bool>,
}

impl Sender {
    async fn new(lane: &Lane, user: &str) -> Self {
        let (up, connected) = watch::channel(true);
        let patience = Patience {
            confirm: DEADLINE,
            wait_for_nats: false,
            wait_for_room: false,
        };
        let client = lane.fixture.server.connect_as(user).await;
        Self {
            submitter: Submitter::over(&client.into(), connected, patience),
            _up: up,
        }
    }

    async fn submit(&self, job: Value) -> Result<JobId, SubmitError> {
        let job = NewJob::decode(job.to_string().into()).unwrap();
        match self.submitter.submit(&job).await? {
            Submitted::Stored => Ok(job.id),
            other => panic!("{other:?}"),
        }
    }

    /// The job that holds a key, as a submitter is told.
    async fn holder(&self, job: Value) -> JobId {
        match self.submit(job).await {
            Err(SubmitError::Conflict { holder, .. }) => holder,
            other => panic!("nobody holds the key: {other:?}"),
        }
    }
}

fn unique(kind: &str, key: &str) -> Value {
    json!({"kind": kind, "unique": {"key": key}})
}

/// The subject of the lock in the queue; there is one at most.
async fn lock(lane: &Lane) -> Option<String> {
    let client: NatsClient = lane.admin.clone().into();
    let found = manage::subjects(&client, Stream::Jobs, subjects::ALL_UNIQUE).await;
    let mut found = found.unwrap().into_keys();
    let lock = found.next();
    assert!(found.next().is_none(), "more than one lock");
    lock
}

async fn no_lock_is_left(lane: &Lane) {
    eventually(DEADLINE, "no locks", async || {
        (lane.count("JOBS", subjects::ALL_UNIQUE).await == 0).then_some(())
    })
    .await;
}

/// What a consumer stores first when a job that runs succeeds.
async fn record_end(lane: &Lane, id: JobId) {
    let client: NatsClient = lane.admin.clone().into();
    let stored = jetstream::records::one(&client, id).await.unwrap().unwrap();
    let mut record = stored.record.unwrap();
    record.state = JobState::Succeeded;
    let record = serde_json::to_vec(&record).unwrap().into();
    let record = jetstream::records::message(id, record, stored.sequence, None);
    jetstream::batch::store(&client, vec![record])
        .await
        .unwrap();
}

#[tokio::test]
async fn four_submitters_that_storm_one_key_never_have_two_jobs_of_it_at_a_time() {
    let lane = Lane::start().await;
    let _one = lane.consumer("one", &[]).await;
    let _two = lane.consumer("two", &[]).await;
    let mut senders = Vec::new();
    for user in ["publisher", "application", "operator", "gateway"] {
        senders.push(Sender::new(&lane, user).await);
    }
    let storm = senders.iter().map(async |sender| {
        let mut stored = Vec::new();
        for _ in 0..100 {
            match sender.submit(unique("note", "a")).await {
                Ok(id) => stored.push(id),
                Err(SubmitError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        stored
    });
    let stored: Vec<_> = join_all(storm).await.into_iter().flatten().collect();
    println!("stored {} of 400", stored.len());
    assert!(!stored.is_empty());
    let ended = lane.all_end(&stored, DEADLINE).await;
    lane.account(&stored, &ended, 0..=0);
    no_lock_is_left(&lane).await;
    // Each job was stored after the one before had ended, so they began in the order of their ends.
    let begun: Vec<_> = lane.ledger().0.into_iter().map(|run| run.id).collect();
    let ends: Vec<_> = begun.iter().map(|id| ended[id].at).collect();
    assert!(ends.is_sorted(), "{ends:?}");
    let mut keys = ended.values().map(|record| {
        let job: Value = serde_json::from_str(record.job.as_ref().unwrap().get()).unwrap();
        job["unique"]["key"].clone()
    });
    assert!(keys.all(|key| key == "a"), "records show the key");
}

#[tokio::test]
async fn a_key_is_held_until_the_end_through_retries_and_a_crash_of_the_server() {
    let mut lane = Lane::start().await;
    let sender = Sender::new(&lane, "publisher").await;
    let consumer = lane.consumer("only", &[]).await;
    // It fails twice, with a wait in between, and does not meet its own lock.
    let backoff = json!({"initial": "2s", "factor": 1, "max": "2s"});
    let mut flaky = unique("flaky", "a");
    flaky["backoff"] = backoff;
    let id = sender.submit(flaky).await.unwrap();
    lane.becomes(id, JobState::Retrying).await;
    assert_eq!(sender.holder(unique("flaky", "a")).await, id);
    let client: NatsClient = lane.admin.clone().into();
    let depths = client::streams(&client).await.unwrap().unwrap();
    let jobs = depths.iter().find(|depth| depth.stream == Stream::Jobs);
    let lane_queues = client::queues(&client, 10).await.unwrap();
    assert!(jobs.unwrap().messages <= 1, "the lock counts as a job");
    assert!(
        lane_queues
            .queues
            .iter()
            .all(|queue| queue.kind.as_str() == "flaky" || queue.waiting == 0)
    );
    let page = client::list(&client, &client::Filter::default(), None, 10)
        .await
        .unwrap();
    assert_eq!(page.jobs.len(), 1, "{:?}", page.jobs);

    lane.fixture.server.kill().await;
    lane.fixture.server.start_again().await;
    let sender = Sender::new(&lane, "publisher").await;
    let record = lane
        .record_that(id, 2 * DEADLINE, "succeeded", |record| {
            record.state == JobState::Succeeded
        })
        .await;
    assert_eq!(record.attempt, 3, "{record:?}");
    no_lock_is_left(&lane).await;
    assert!(sender.submit(unique("flaky", "a")).await.is_ok());
    drop(consumer);
}

#[tokio::test]
async fn a_consumer_that_is_killed_between_record_and_release_leaves_no_lock() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "publisher").await;
    let mut mortal = lane.consumer("mortal", &[]).await;
    lane.hold(1);
    let before_release = sender.submit(unique("held", "a")).await.unwrap();
    let before_ack = sender.submit(unique("held", "b")).await.unwrap();
    for id in [before_release, before_ack] {
        lane.begun(id, 1, DEADLINE).await;
        lane.becomes(id, JobState::Running).await;
    }
    mortal.kill().await;
    // Killed while they run: the keys stay held.
    assert_eq!(sender.holder(unique("held", "a")).await, before_release);
    // Killed after the record, and after the release.
    record_end(&lane, before_release).await;
    record_end(&lane, before_ack).await;
    let client: NatsClient = lane.admin.clone().into();
    let job = job_messages::read(&client, before_ack, job_messages::Place::Queue).await;
    let hash = unique_locks::hash_in(&job.unwrap().unwrap().headers).unwrap();
    unique_locks::release(&client, hash, before_ack, 1)
        .await
        .unwrap();
    let next = sender.submit(unique("held", "b")).await.unwrap();

    let mut other = lane.consumer("other", &[]).await;
    lane.begun(next, 1, DEADLINE).await;
    // The redelivery of what has ended releases its own key, and not that of the next holder.
    eventually(ACK_WAIT + DEADLINE, "the release", async || {
        (lane.count("JOBS", subjects::ALL_UNIQUE).await == 1).then_some(())
    })
    .await;
    eventually(ACK_WAIT + DEADLINE, "the acknowledgements", async || {
        (lane.count("JOBS", "jobs.durable.>").await == 1).then_some(())
    })
    .await;
    assert_eq!(sender.holder(unique("held", "b")).await, next);
    assert_eq!(lane.ledger().of(before_release).len(), 1);
    assert_eq!(lane.ledger().of(before_ack).len(), 1);
    lane.release(1);
    lane.becomes(next, JobState::Succeeded).await;
    no_lock_is_left(&lane).await;
    stop(&mut other).await;
}

#[tokio::test]
async fn consumers_that_are_killed_again_and_again_leave_no_lock() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "application").await;
    let mut consumer = lane.consumer("mortal", &[]).await;
    let mut jobs = Vec::new();
    for round in 0..4 {
        let some = (0..50).map(|number| unique("note", &format!("{round}-{number}")));
        let some = join_all(some.map(|job| sender.submit(job))).await;
        jobs.extend(some.into_iter().map(Result::unwrap));
        lane.runs(round * 50 + 20).await;
        consumer.kill().await;
        consumer = lane.consumer("mortal", &[]).await;
    }
    let ended = lane.all_end(&jobs, 3 * ACK_WAIT + DEADLINE).await;
    lane.account(&jobs, &ended, 0..=jobs.len());
    eventually(ACK_WAIT + DEADLINE, "no locks", async || {
        (lane.count("JOBS", subjects::ALL_UNIQUE).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stale_lock_and_what_is_no_lock_give_way_to_the_next_job() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "publisher").await;
    let _keeper = lane.consumer("keeper", &["--kinds", "echo"]).await;
    let nobody = JobId::generate();
    let ended = lane.submit(json!({"kind": "echo"})).await;
    lane.becomes(ended, JobState::Succeeded).await;
    let unreadable = JobId::generate();
    lane.publish(subjects::state(unreadable), HeaderMap::new(), "no record")
        .await
        .unwrap();
    let first = sender.submit(unique("note", "a")).await.unwrap();
    let subject = lock(&lane).await.unwrap();
    lane.cancel(first).await;
    no_lock_is_left(&lane).await;
    let lock_of = |id: JobId| json!({"job": id, "run": 1}).to_string();
    for body in [
        lock_of(nobody),
        lock_of(ended),
        lock_of(unreadable),
        String::new(),
        "[]".to_owned(),
        r#"{"job":"x","run":1}"#.to_owned(),
        "x".repeat(100_000),
    ] {
        lane.publish(subject.clone(), HeaderMap::new(), body.clone())
            .await
            .unwrap();
        let next = sender.submit(unique("note", "a")).await;
        let next = next.unwrap_or_else(|error| panic!("{body:.80}: {error}"));
        assert_eq!(sender.holder(unique("note", "a")).await, next);
        lane.cancel(next).await;
        no_lock_is_left(&lane).await;
    }
    // A lock that names a job that has not ended stays as long as that.
    let other = lane.submit(json!({"kind": "note"})).await;
    lane.publish(subject, HeaderMap::new(), lock_of(other))
        .await
        .unwrap();
    assert_eq!(sender.holder(unique("note", "a")).await, other);
    lane.cancel(other).await;
    lane.becomes(other, JobState::Cancelled).await;
    assert!(sender.submit(unique("note", "a")).await.is_ok());
}

#[tokio::test]
async fn a_job_whose_lock_was_removed_by_hand_ends_and_leaves_the_next_holder_alone() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "publisher").await;
    let _only = lane.consumer("only", &[]).await;
    lane.hold(1);
    let first = sender.submit(unique("held", "a")).await.unwrap();
    lane.begun(first, 1, DEADLINE).await;
    let client: NatsClient = lane.admin.clone().into();
    let hash = lock(&lane).await.unwrap();
    let hash = hash.rsplit('.').next().unwrap().parse().unwrap();
    unique_locks::release(&client, hash, first, 1)
        .await
        .unwrap();
    let mut waits = unique("held", "a");
    waits["run_at"] = json!(Timestamp::now().after(Duration::from_hours(1)));
    let second = sender.submit(waits).await.unwrap();
    lane.becomes(second, JobState::Scheduled).await;
    lane.release(1);
    lane.becomes(first, JobState::Succeeded).await;
    lane.queue_empties().await;
    assert_eq!(sender.holder(unique("held", "a")).await, second);
}

#[tokio::test]
async fn cancelled_expired_and_dead_jobs_release_and_a_replay_takes_the_key_again() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "gateway").await;
    let consumer = lane.consumer("only", &[]).await;
    let mut expired = unique("note", "expired");
    expired["deadline"] = json!("2020-01-01T00:00:00Z");
    let id = sender.submit(expired).await.unwrap();
    lane.becomes(id, JobState::Expired).await;
    lane.hold(1);
    let id = sender.submit(unique("held", "a")).await.unwrap();
    lane.begun(id, 1, DEADLINE).await;
    lane.cancel(id).await;
    lane.becomes(id, JobState::Cancelled).await;
    no_lock_is_left(&lane).await;

    let dead = sender.submit(unique("refuse", "a")).await.unwrap();
    lane.becomes(dead, JobState::Dead).await;
    no_lock_is_left(&lane).await;
    let mut waits = unique("refuse", "a");
    waits["run_at"] = json!(Timestamp::now().after(Duration::from_hours(1)));
    let holder = sender.submit(waits).await.unwrap();
    lane.becomes(holder, JobState::Scheduled).await;
    let client: NatsClient = lane.operator.clone().into();
    let letter = dead_letters::show(&client, dead).await.unwrap().unwrap();
    let held = dead_letters::replay(&client, &letter, None)
        .await
        .unwrap_err();
    let held = held.downcast_ref::<LeftAsItIs>().copied();
    assert_eq!(held, Some(LeftAsItIs::KeyHeld { id: dead, holder }));
    let why = client::why(&client, dead).await.unwrap().unwrap().reasons;
    let key = "a".parse().unwrap();
    assert_eq!(why, [client::Reason::KeyHeld { key, holder }]);
    let record = lane.record(dead).await.unwrap();
    let kept = record.job.unwrap();
    let key = client::key_of(&client, kept.get().as_bytes()).await;
    assert_eq!(key.unwrap().unwrap().holder, Some(holder));
    assert_eq!(lane.record(dead).await.unwrap().state, JobState::Dead);

    lane.cancel(holder).await;
    no_lock_is_left(&lane).await;
    let why = client::why(&client, dead).await.unwrap().unwrap().reasons;
    assert_eq!(why, []);
    drop(consumer);
    let replayed = dead_letters::replay(&client, &letter, None).await.unwrap();
    assert_eq!(replayed, dead_letters::Replayed::Yes);
    assert_eq!(sender.holder(unique("refuse", "a")).await, dead);
    let _next = lane.consumer("next", &[]).await;
    lane.record_that(dead, ACK_WAIT + DEADLINE, "dead again", |record| {
        record.state == JobState::Dead && record.run > 1
    })
    .await;
    no_lock_is_left(&lane).await;
}

#[tokio::test]
async fn a_key_that_is_held_until_the_start_is_free_once_the_job_runs() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "publisher").await;
    let job = json!({"kind": "held", "unique": {"key": "a", "until": "started"}});
    // It makes the streams.
    let _keeper = lane.consumer("keeper", &["--kinds", "echo"]).await;
    let first = sender.submit(job.clone()).await.unwrap();
    assert_eq!(sender.holder(job.clone()).await, first);
    lane.hold(1);
    let _only = lane.consumer("only", &["--concurrency", "1"]).await;
    lane.begun(first, 1, DEADLINE).await;
    let second = sender.submit(job.clone()).await.unwrap();
    assert_eq!(sender.holder(job).await, second);
    lane.release(1);
    for id in [first, second] {
        lane.becomes(id, JobState::Succeeded).await;
    }
    no_lock_is_left(&lane).await;
}

#[tokio::test]
async fn a_unique_job_of_a_kind_that_keeps_failures_only_leaves_a_record() {
    let lane = Lane::start().await;
    let sender = Sender::new(&lane, "publisher").await;
    let _only = lane.consumer("only", &["--keep", "failures"]).await;
    let plain = lane.submit(json!({"kind": "note"})).await;
    let id = sender.submit(unique("note", "a")).await.unwrap();
    lane.becomes(id, JobState::Succeeded).await;
    lane.queue_empties().await;
    assert!(lane.record(plain).await.is_none());
    no_lock_is_left(&lane).await;
}

#[tokio::test]
async fn a_job_that_is_not_stored_cannot_be_unique() {
    let lane = Lane::start().await;
    let _only = lane.consumer("only", &[]).await;
    let job = unique("note", "a").to_string();
    let answer = lane.fixture.server.connect_as("gateway").await;
    let answer = answer.request("jobs.create", job.into()).await.unwrap();
    let outcome: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(outcome["status"], "rejected", "{outcome}");
    let message = outcome["error"]["message"].as_str().unwrap();
    assert!(message.contains("field `unique`"), "{message}");
}

#[tokio::test]
async fn who_may_read_locks_cannot_cancel_jobs_with_a_copy_of_one() {
    let lane = Lane::start().await;
    let _only = lane.consumer("only", &[]).await;
    let hour = Timestamp::now().after(Duration::from_hours(1));
    let later = json!({"kind": "note", "run_at": hour});
    let (target, other) = (lane.submit(later.clone()).await, lane.submit(later).await);
    lane.hold(1);
    let running = lane.submit(json!({"kind": "held"})).await;
    lane.begun(running, 1, DEADLINE).await;
    for id in [target, other] {
        lane.becomes(id, JobState::Scheduled).await;
    }
    // An empty message on a subject that a publisher may write and read.
    let publisher = lane.fixture.server.connect_as("publisher").await;
    let subject = format!("jobs.unique.{}", "0".repeat(32));
    let stored = publisher.request(subject.clone(), "".into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&stored.payload).contains("error"));
    for id in [target, running] {
        let get = format!("$JS.API.DIRECT.GET.JOBS.{subject}");
        publisher
            .publish_with_reply(get, subjects::cancel(id), "".into())
            .await
            .unwrap();
    }
    eventually(DEADLINE, "the copies", async || {
        let stored = lane.count("JOBS_STATE", subjects::ALL_CANCELS).await;
        (stored == 2).then_some(())
    })
    .await;
    // Requests are carried out one after the other.
    lane.cancel(other).await;
    lane.becomes(other, JobState::Cancelled).await;
    assert_eq!(
        lane.record(target).await.unwrap().state,
        JobState::Scheduled
    );
    lane.release(1);
    lane.becomes(running, JobState::Succeeded).await;
}
