//! Waiting for the end of a job: outages are waited out, and what does not change by itself is an error.

use std::time::Duration;

use client::{
    Client, ConfirmedError, Draft, Handle, Job, Options, ResultError, SubmitError, WaitError,
};
use common::{JobId, JobState};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use test_support::{DEADLINE, NatsServer};

use crate::support::{lane, put_record};

#[derive(Serialize, Deserialize)]
struct Echo;

impl Job for Echo {
    const KIND: &'static str = "echo";
    type Output = u32;
}

async fn connect(nats: &NatsServer, user: &str) -> Client {
    let variables = nats.env_for(user);
    let options = Options::from_variables(|name| {
        let found = variables.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone())
    });
    Client::connect(options.unwrap()).await.unwrap()
}

/// The errors of the three ways to wait for a job.
async fn errors(handle: &Handle<Echo>) -> [WaitError; 3] {
    let all = async {
        let result = match handle.result().await.unwrap_err() {
            ResultError::CannotWait { id, error } => {
                assert_eq!(id, handle.id());
                error
            }
            other => panic!("{other}"),
        };
        let waited = handle.wait(Duration::from_hours(1)).await.unwrap_err();
        let followed: Vec<_> = handle.follow().collect().await;
        let [Err(followed)] = &followed[..] else {
            panic!("{followed:?}")
        };
        [result, waited, followed.clone()]
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap()
}

#[tokio::test]
async fn a_user_without_permission_is_told_which_subject_to_grant() {
    let nats = lane().await;
    // It may ask for the status of consumers, and do nothing with jobs.
    let jobs = connect(&nats, "status").await;
    let handle: Handle<Echo> = jobs.handle(JobId::generate());
    for error in errors(&handle).await {
        let WaitError::Forbidden(subject) = &error else {
            panic!("{error}")
        };
        assert!(
            subject.starts_with("$JS.API.DIRECT.GET.") || subject.starts_with("jobs.events."),
            "{error}"
        );
    }
    let confirmed = jobs.confirmed(Draft::new(Echo)).await.unwrap_err();
    let ConfirmedError::Invalid(SubmitError::Forbidden(subject)) = &confirmed else {
        panic!("{confirmed}")
    };
    assert_eq!(subject, "jobs.create");
    let error = jobs.record(handle.id()).await.unwrap_err();
    assert!(
        error.to_string().contains("does not let this user"),
        "{error:#}"
    );
}

#[tokio::test]
async fn a_user_that_may_look_up_but_not_listen_is_told_so() {
    let nats = lane().await;
    let jobs = connect(&nats, "worker").await;
    let id = JobId::generate();
    let handle: Handle<Echo> = jobs.handle(id);
    let worker = nats.connect_as("worker").await;
    put_record(&worker, id, json!({"state": "running"})).await;
    let states: Vec<_> = tokio::time::timeout(DEADLINE, handle.follow().collect())
        .await
        .unwrap();
    let [Ok(running), Err(WaitError::Forbidden(subject))] = &states[..] else {
        panic!("{states:?}")
    };
    assert_eq!(running.state, JobState::Running);
    assert_eq!(*subject, format!("jobs.events.{id}"));
}

#[tokio::test]
async fn a_connection_of_the_application_that_is_closed_ends_every_wait() {
    let nats = lane().await;
    let client = nats.connect_as("application").await;
    let jobs = Client::over(client.clone());
    let handle = jobs.submit(Echo).await.unwrap();
    let before = tokio::spawn({
        let handle = handle.clone();
        async move { handle.result().await }
    });
    let mut events = Box::pin(handle.follow());
    assert!(events.next().await.unwrap().is_ok());
    client.drain().await.unwrap();
    let closed = [Some(Err(WaitError::Closed)), None];
    let last = async { [events.next().await, events.next().await] };
    let last = tokio::time::timeout(DEADLINE, last).await.unwrap();
    assert_eq!(last.map(|end| end.map(|end| end.map(|_| ()))), closed);
    let error = tokio::time::timeout(DEADLINE, before).await;
    let error = error.unwrap().unwrap().unwrap_err();
    assert!(
        matches!(&error, ResultError::CannotWait { error, .. } if *error == WaitError::Closed),
        "{error}"
    );
    assert_eq!(errors(&handle).await, [const { WaitError::Closed }; 3]);
}

#[tokio::test]
async fn an_outage_is_waited_out_in_all_three_ways() {
    let mut nats = lane().await;
    let jobs = connect(&nats, "application").await;
    let handle = jobs.submit(Echo).await.unwrap();
    nats.kill().await;
    jobs.connected().wait_for(|up| !up).await.unwrap();
    let mut result = Box::pin(handle.result());
    let mut wait = Box::pin(handle.wait(Duration::from_hours(1)));
    let mut follow = Box::pin(handle.follow().collect::<Vec<_>>());
    let soon = Duration::from_millis(500);
    assert!(tokio::time::timeout(soon, &mut result).await.is_err());
    assert!(tokio::time::timeout(soon, &mut wait).await.is_err());
    assert!(tokio::time::timeout(soon, &mut follow).await.is_err());
    nats.start_again().await;
    let ends = async {
        let worker = nats.connect_as("worker").await;
        let fields = json!({"state": "succeeded", "result": 7});
        put_record(&worker, handle.id(), fields).await;
    };
    let all = async { tokio::join!(result, wait, follow, ends) };
    let (result, waited, followed, ()) = tokio::time::timeout(DEADLINE, all).await.unwrap();
    assert_eq!(result.unwrap(), 7);
    assert_eq!(waited.unwrap().unwrap().state, JobState::Succeeded);
    assert!(followed.iter().all(Result::is_ok), "{followed:?}");
}

#[tokio::test]
async fn a_connection_of_the_application_does_not_tell_of_permissions_so_the_wait_ends_later() {
    let nats = lane().await;
    let jobs = Client::over(nats.connect_as("status").await);
    let handle: Handle<Echo> = jobs.handle(JobId::generate());
    let error = tokio::time::timeout(3 * DEADLINE, handle.result()).await;
    match error.unwrap().unwrap_err() {
        ResultError::CannotWait {
            error: WaitError::NoAnswer(why),
            ..
        } => {
            assert!(why.contains("$JS.API.DIRECT.GET"), "{why}");
        }
        other => panic!("{other}"),
    }
}
