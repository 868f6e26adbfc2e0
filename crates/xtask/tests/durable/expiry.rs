//! How long the records of ended jobs are kept, and that a job has one record wherever it is stored.

use async_nats::{HeaderMap, Request};
use common::{JobId, JobRecord, JobState, Retention, Timestamp, subjects};
use jetstream::{NotStored, batch, records};
use serde_json::json;
use test_support::{DEADLINE, eventually};

use crate::fixture::stop;
use crate::lane::Lane;

/// How many records there are of jobs that ended without an earlier one.
async fn ended(lane: &Lane) -> usize {
    let all = lane.count("JOBS_STATE", subjects::ALL_RECORDS).await;
    all - lane.count("JOBS_STATE", subjects::ALL_STATES).await
}

async fn has_ttl(lane: &Lane, id: JobId) -> bool {
    let record = lane.last("JOBS_STATE", &subjects::record(id)).await;
    let headers = record.unwrap().headers.unwrap();
    headers.get("Nats-TTL").is_some()
}

#[tokio::test]
async fn records_without_a_predecessor_are_removed_together_and_the_others_by_the_server() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &["--keep-outcomes", "6s"]).await;
    lane.hold(1);
    let long = lane.submit(json!({"kind": "held"})).await;
    lane.becomes(long, JobState::Running).await;
    let dead = lane.submit(json!({"kind": "refuse"})).await;
    lane.becomes(dead, JobState::Dead).await;
    let jobs = lane
        .submit_all((0..300).map(|_| json!({"kind": "note"})))
        .await;
    let records = lane.all_end(&jobs, DEADLINE).await;
    let last = records.values().map(|record| record.at).max().unwrap();
    lane.release(1);
    lane.becomes(long, JobState::Succeeded).await;
    assert!(has_ttl(&lane, long).await, "it had a record while it ran");
    assert!(!has_ttl(&lane, dead).await, "a dead letter stays");

    eventually(DEADLINE, "the removal of the records", async || {
        let gone = ended(&lane).await == 0;
        (gone && lane.record(long).await.is_none()).then_some(())
    })
    .await;
    assert!(Timestamp::now().since(last).as_secs() >= 6, "too early");
    assert_eq!(lane.record(dead).await.unwrap().state, JobState::Dead);
    stop(&mut consumer).await;
}

#[tokio::test]
async fn each_record_is_kept_for_the_time_of_the_consumer_that_stored_it() {
    let lane = Lane::start().await;
    let arguments = ["--kinds", "note", "--keep-outcomes", "1h"];
    let mut long = lane.consumer("long", &arguments).await;
    let arguments = ["--kinds", "mail.send", "--keep-outcomes", "7s"];
    let mut short = lane.consumer("short", &arguments).await;
    let kinds = ["note", "mail.send"];
    let both = || (0..40).map(|number| json!({"kind": kinds[number % 2]}));
    let jobs = lane.submit_all(both()).await;
    let first = lane.all_end(&jobs, DEADLINE).await;
    let first = first.values().map(|record| record.at).max().unwrap();
    eventually(DEADLINE, "records that are half as old", async || {
        (Timestamp::now().since(first).as_secs() >= 4).then_some(())
    })
    .await;
    let jobs = lane.submit_all(both()).await;
    let second = lane.all_end(&jobs, DEADLINE).await;
    let second = second.values().map(|record| record.at).min().unwrap();
    // Those of the short time go, the older ones first.
    eventually(DEADLINE, "the removal of the older records", async || {
        (ended(&lane).await < 80).then_some(())
    })
    .await;
    let left = ended(&lane).await;
    let age = Timestamp::now().since(second).as_secs();
    assert!(left >= 60 || age >= 7, "{left} are left after {age} s");
    eventually(
        DEADLINE,
        "the removal of all records of that time",
        async || (ended(&lane).await == 40).then_some(()),
    )
    .await;
    stop(&mut long).await;
    stop(&mut short).await;
}

#[tokio::test]
async fn what_somebody_has_stored_among_the_records_stops_nothing_and_ends_no_job() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &["--kinds", "echo"]).await;
    stop(&mut consumer).await;
    let application = lane.fixture.server.connect_as("application").await;
    let have_stored = async |reply: String, question: String| {
        let what = format!("a message on {reply}");
        let stored = eventually(DEADLINE, &what, async || {
            let get = "$JS.API.DIRECT.GET.JOBS";
            let asked = application.publish_with_reply(get, reply.clone(), question.clone().into());
            asked.await.unwrap();
            lane.last("JOBS_STATE", &reply).await
        });
        stored.await
    };
    let second = Retention::at_least(std::time::Duration::from_secs(1));
    // Neither a record nor the message of a job, as the oldest of all records.
    let nothing = json!({"last_by_subj": "jobs.durable.nothing"}).to_string();
    have_stored(subjects::ended(second, JobId::generate()), nothing).await;
    // A copy of a message that reads as the end of another job.
    let victims = [(); 2].map(|()| JobId::generate());
    for (number, victim) in victims.into_iter().enumerate() {
        let job = json!({"kind": "note", "id": victim}).to_string();
        let subject = format!("jobs.durable.{victim}.normal.1.note");
        lane.publish(subject, HeaderMap::new(), job).await.unwrap();
        let record = JobRecord::new(victim, None, JobState::Succeeded, Timestamp::now());
        let record = serde_json::to_string(&record).unwrap();
        let place = format!("jobs.durable.{}.normal.1.nobody", JobId::generate());
        let stored = lane.publish(place.clone(), HeaderMap::new(), record.clone());
        stored.await.unwrap();
        let reply = if number == 0 {
            subjects::state(victim)
        } else {
            subjects::ended(second, victim)
        };
        let message = have_stored(reply, json!({"last_by_subj": place}).to_string()).await;
        assert_eq!(message.payload, record.as_bytes());
    }

    let arguments = ["--kinds", "note", "--keep-outcomes", "1s"];
    let mut consumer = lane.consumer("only", &arguments).await;
    for victim in victims {
        lane.begun(victim, 1, DEADLINE).await;
    }
    eventually(DEADLINE, "the removal of all records", async || {
        (lane.count("JOBS_STATE", subjects::ALL_RECORDS).await == 0).then_some(())
    })
    .await;
    for victim in victims {
        assert_eq!(lane.states_of(victim).last(), Some(&JobState::Succeeded));
        assert_eq!(lane.ledger().of(victim).len(), 1);
    }
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_job_has_one_record_on_whichever_subject_the_first_one_was_stored() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let worker = lane.fixture.server.connect_as("worker").await.into();
    let record = |id, state| {
        let record = JobRecord::new(id, None, state, Timestamp::now());
        records::encode(&record, 10_000)
    };
    let store = async |message| batch::store(&worker, vec![message]).await;
    let hour = Retention::at_least(std::time::Duration::from_hours(1));
    let first = |id| records::message(id, record(id, JobState::Dead), 0, None);
    let first_and_last = |id| records::first_and_last(id, record(id, JobState::Succeeded), hour);

    // Two consumers hold a job without a record, and it ends in both.
    let id = JobId::generate();
    store(first_and_last(id)).await.unwrap();
    for late in [first(id), first_and_last(id)] {
        assert_eq!(store(late).await, Err(NotStored::Conflict));
    }
    assert_eq!(lane.record(id).await.unwrap().state, JobState::Succeeded);
    let id = JobId::generate();
    store(first(id)).await.unwrap();
    assert_eq!(store(first_and_last(id)).await, Err(NotStored::Conflict));
    assert_eq!(lane.record(id).await.unwrap().state, JobState::Dead);

    // Bytes that are no record keep no job from its end.
    let id = JobId::generate();
    let forged = worker.request(subjects::ended(hour, id), "{}".into());
    assert!(forged.await.is_ok());
    lane.submit_as(id, json!({"kind": "note"})).await.unwrap();
    lane.begun(id, 1, DEADLINE).await;
    lane.queue_empties().await;
    assert_eq!(lane.record(id).await.unwrap().state, JobState::Succeeded);
    assert_eq!(lane.ledger().of(id).len(), 1);
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_job_of_which_nothing_is_kept_tells_its_end_and_leaves_records_of_failures_only() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &["--keep", "failures"]).await;
    let jobs = lane
        .submit_all((0..50).map(|_| json!({"kind": "note"})))
        .await;
    lane.hold(1);
    let long = lane.submit(json!({"kind": "held"})).await;
    lane.becomes(long, JobState::Running).await;
    let flaky = lane.submit(json!({"kind": "flaky"})).await;
    let dead = lane.submit(json!({"kind": "refuse"})).await;
    let overdue = json!({"kind": "note", "deadline": "2020-01-01T00:00:00Z"});
    let expired = lane.submit(overdue).await;
    // It could not be left in the state `running`, or `retrying`.
    lane.release(1);
    lane.becomes(long, JobState::Succeeded).await;
    lane.becomes(flaky, JobState::Succeeded).await;
    lane.becomes(dead, JobState::Dead).await;
    lane.becomes(expired, JobState::Expired).await;
    lane.queue_empties().await;
    for id in jobs {
        assert_eq!(lane.ledger().of(id).len(), 1);
        assert!(lane.record(id).await.is_none());
        eventually(DEADLINE, "the event of the end", async || {
            (lane.states_of(id) == [JobState::Succeeded]).then_some(())
        })
        .await;
    }
    assert_eq!(ended(&lane).await, 1, "the one that expired");
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_job_that_another_consumer_may_still_run_leaves_a_record_although_nothing_is_kept() {
    let lane = Lane::start().await;
    let keep = ["--keep", "failures"];
    let mut first = lane.consumer("first", &keep).await;
    stop(&mut first).await;
    let id = lane.submit(json!({"kind": "note"})).await;
    // A consumer gets it, and is heard of no more; the server delivers it again, here without a wait.
    let pull = Request::new().inbox(lane.admin.new_inbox());
    let pull = pull.payload(r#"{"batch": 1}"#.into());
    let subject = "$JS.API.CONSUMER.MSG.NEXT.JOBS.note";
    let message = lane.admin.send_request(subject, pull).await.unwrap();
    let reply = message.reply.unwrap();
    lane.admin.publish(reply, "-NAK".into()).await.unwrap();
    let mut second = lane.consumer("second", &keep).await;
    let record = lane.becomes(id, JobState::Succeeded).await;
    assert_eq!(record.failures.len(), 1, "{record:?}");
    stop(&mut second).await;
}
