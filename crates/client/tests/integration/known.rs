//! Which ids are known, and what it costs to ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use client::{NewJob, SubmitError, Submitted, Submitter, Topology};
use common::{JobId, subjects};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer};

use crate::support::{connected, echo, job, lane, messages, patience, put, put_record, submitter};

/// A job whose id somebody has given it.
fn given() -> NewJob {
    with_id(JobId::generate())
}

fn with_id(id: JobId) -> NewJob {
    job(&format!(r#"{{"id":"{id}","kind":"echo"}}"#))
}

#[tokio::test]
async fn an_ended_job_is_known_as_long_as_its_record_is_kept() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    // A record as it is written during a job, and one that is the only one of its job.
    let (dead, succeeded) = (given(), given());
    put_record(&worker, dead.id, json!({"state": "dead"})).await;
    let record = json!({
        "id": succeeded.id, "kind": "echo", "state": "succeeded", "at": "2026-01-31T09:30:00Z", "run": 1,
        "attempt": 1,
    });
    let subject = format!("jobs-ended-4096.state.{}", succeeded.id);
    put(&worker, subject, HeaderMap::new(), record.to_string()).await;
    for job in [&dead, &succeeded] {
        assert_eq!(submitter.submit(job).await, Ok(Submitted::Known));
    }
    let together = [echo(), given(), succeeded];
    assert_eq!(
        submitter.submit_all(&together).await,
        Err(SubmitError::SomeKnown)
    );
    assert_eq!(messages(&client, "JOBS").await, 0);
    assert_eq!(submitter.submit_all(&together[..2]).await, Ok(()));
    assert_eq!(messages(&client, "JOBS").await, 2);
}

#[tokio::test]
async fn what_is_no_record_keeps_no_job_out() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let client = nats.connect_as("publisher").await;
    let others = given();
    let jobs = [given(), given(), given()];
    let [bytes, elsewhere, _] = &jobs;
    let put_there = async |job: &NewJob, text: String| {
        put(&worker, subjects::state(job.id), HeaderMap::new(), text).await;
    };
    put_there(bytes, "\u{0}{".to_owned()).await;
    let record = json!({
        "id": others.id, "kind": "echo", "state": "dead", "at": "2026-01-31T09:30:00Z", "run": 1,
        "attempt": 1,
    });
    put_there(elsewhere, record.to_string()).await;
    let submitter = submitter(&client);
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    assert_eq!(results, vec![Ok(Submitted::Stored); 3]);
}

/// A server without users, and the bodies of the requests for records so far.
async fn overheard() -> (NatsServer, Client, Arc<Mutex<Vec<Value>>>) {
    let nats = NatsServer::builder().open().start().await;
    let client = nats.connect_as("admin").await;
    let topology = Topology::default();
    topology.ensure(&client.clone().into()).await.unwrap();
    let mut requests = client
        .subscribe("$JS.API.DIRECT.GET.JOBS_STATE")
        .await
        .unwrap();
    client.flush().await.unwrap();
    let heard = Arc::<Mutex<Vec<Value>>>::default();
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let body = serde_json::from_slice(&request.payload).unwrap();
            all.lock().unwrap().push(body);
        }
    });
    (nats, client, heard)
}

#[tokio::test]
async fn many_given_ids_are_looked_up_together_and_generated_ones_never() {
    let (_nats, client, heard) = overheard().await;
    let submitter = submitter(&client);
    let generated: Vec<_> = (0..2_000).map(|_| echo()).collect();
    let given: Vec<_> = (0..2_000).map(|_| given()).collect();
    let all = generated.iter().chain(&given);
    let results = join_all(all.map(|job| submitter.submit(job))).await;
    assert_eq!(results, vec![Ok(Submitted::Stored); 4_000]);
    submitter.submit_all(&given[..1]).await.unwrap_err();
    let last = [echo(), echo()];
    submitter.submit_all(&last).await.unwrap();
    // What was asked before has been heard when this has.
    let marker = format!(r#"{{"last_by_subj":"{}"}}"#, subjects::record(last[0].id));
    let api = "$JS.API.DIRECT.GET.JOBS_STATE";
    client.request(api, Bytes::from(marker)).await.unwrap();
    test_support::eventually(DEADLINE, "the marker", async || {
        let heard = heard.lock().unwrap();
        heard
            .iter()
            .any(|body| body["last_by_subj"].is_string())
            .then_some(())
    })
    .await;
    let heard = heard.lock().unwrap();
    let groups: Vec<_> = heard
        .iter()
        .filter_map(|body| body["multi_last"].as_array())
        .map(Vec::len)
        .collect();
    println!("2,001 look-ups in requests of {groups:?}");
    assert_eq!(groups.iter().sum::<usize>(), 2_001, "{groups:?}");
    // On one thread, tokio lets the task that asks and the one that answers go on by turns.
    assert!(groups.len() <= 40, "{groups:?}");
}

/// A user of a server that may do everything but read records.
const BLIND: &str = r#"
    no_auth_user: all
    authorization { users = [
        { user: all, password: all }
        { user: blind, password: blind, permissions {
            publish { deny: ["$JS.API.DIRECT.GET.>"] } } }
    ] }
"#;

#[tokio::test]
async fn who_may_not_read_records_submits_all_the_same() {
    let nats = NatsServer::builder().open().config(BLIND).start().await;
    let admin = nats.connect_as("admin").await;
    let topology = Topology::default();
    topology.ensure(&admin.clone().into()).await.unwrap();
    let ended = given();
    put_record(&admin, ended.id, json!({"state": "succeeded"})).await;
    assert_eq!(submitter(&admin).submit(&ended).await, Ok(Submitted::Known));
    // Its own connection is told of the refusal at once.
    let options = client::Options::from_variables(|name| {
        let value = match name {
            "NATS_URL" => nats.url(),
            "NATS_USER" | "NATS_PASSWORD" => "blind".to_owned(),
            _ => return None,
        };
        Some(value)
    });
    let jobs = client::Client::connect(options.unwrap()).await.unwrap();
    assert_eq!(jobs.submit_job(&ended).await, Ok(Submitted::Stored));
    assert_eq!(jobs.submit_job(&ended).await, Ok(Submitted::Known));
    // That of an application is not, and waits for an answer, but only once.
    let other = given();
    put_record(&admin, other.id, json!({"state": "succeeded"})).await;
    let options =
        async_nats::ConnectOptions::with_user_and_password("blind".into(), "blind".into());
    let blind = options.connect(nats.url()).await.unwrap();
    let submitter = Submitter::over(&blind.into(), connected(), patience(DEADLINE));
    assert_eq!(submitter.submit(&other).await, Ok(Submitted::Stored));
    let again = [other, given(), given()];
    let again = join_all(again.iter().map(|job| submitter.submit(job)));
    let again = tokio::time::timeout(Duration::from_secs(4), again).await;
    let (known, stored) = (Ok(Submitted::Known), Ok(Submitted::Stored));
    assert_eq!(again.unwrap(), [known, stored.clone(), stored]);
}

#[tokio::test]
async fn a_job_that_cannot_be_looked_up_is_not_stored_and_the_error_says_so() {
    let (nats, client, heard) = overheard().await;
    // Requests for records are heard, and not answered.
    client
        .request("$JS.API.STREAM.DELETE.JOBS_STATE", Bytes::new())
        .await
        .unwrap();
    let options = client::Options::from_variables(|name| (name == "NATS_URL").then(|| nats.url()));
    let jobs = client::Client::connect(options.unwrap()).await.unwrap();
    let patience = patience(Duration::from_millis(300));
    let submitter = Submitter::over(jobs.nats(), jobs.connected(), patience);
    let job = given();
    let error = submitter.submit(&job).await.unwrap_err();
    assert!(matches!(error, SubmitError::NotLookedUp(_)), "{error:?}");
    assert!(!heard.lock().unwrap().is_empty());
    assert_eq!(messages(&client, "JOBS").await, 0);
}
