//! Handing unique jobs over, while no consumer runs.

use async_nats::HeaderMap;
use client::{NewJob, SubmitError, Submitted};
use common::JobId;
use futures_util::future::join_all;
use jetstream::{Stream, unique_locks};

use crate::support::{echo, job, lane, messages, put, submitter};

fn unique(key: &str) -> NewJob {
    job(&format!(r#"{{"kind":"echo","unique":{{"key":"{key}"}}}}"#))
}

fn keeping(key: &str) -> NewJob {
    job(&format!(
        r#"{{"kind":"echo","unique":{{"key":"{key}","on_conflict":"keep"}}}}"#
    ))
}

#[tokio::test]
async fn of_forty_submissions_over_eight_connections_one_is_stored_and_the_others_name_it() {
    let nats = lane().await;
    let mut submitters = Vec::new();
    for user in ["publisher", "application", "operator", "gateway"] {
        for _ in 0..2 {
            submitters.push(submitter(&nats.connect_as(user).await));
        }
    }
    let jobs: Vec<_> = (0..40).map(|_| unique("a")).collect();
    let submitting = jobs
        .iter()
        .enumerate()
        .map(|(number, job)| submitters[number % 8].submit(job));
    let results = join_all(submitting).await;
    let stored: Vec<_> = jobs
        .iter()
        .zip(&results)
        .filter(|(_, result)| **result == Ok(Submitted::Stored))
        .map(|(job, _)| job.id)
        .collect();
    let [holder] = stored[..] else {
        panic!("{results:?}")
    };
    let key = "a".to_owned();
    let conflict = SubmitError::Conflict { holder, key };
    let text = conflict.to_string();
    assert!(text.contains(&holder.to_string()), "{text}");
    let conflict = Err(conflict);
    let conflicts = results.iter().filter(|result| **result == conflict);
    assert_eq!(conflicts.count(), 39, "{results:?}");
    let client = nats.connect_as("publisher").await;
    assert_eq!(messages(&client, "JOBS").await, 2, "the job and its lock");
}

#[tokio::test]
async fn a_key_is_held_within_its_kind_and_kept_by_whom_it_belongs_to() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let first = unique("a");
    assert_eq!(submitter.submit(&first).await, Ok(Submitted::Stored));
    // The same submission again, as after an answer that was lost.
    assert_eq!(submitter.submit(&first).await, Ok(Submitted::Stored));
    let known = NewJob {
        fresh: false,
        ..first.clone()
    };
    assert_eq!(submitter.submit(&known).await, Ok(Submitted::Known));
    let kept = submitter.submit(&keeping("a")).await;
    assert_eq!(kept, Ok(Submitted::Kept(first.id)));
    for other in [
        unique("b"),
        job(r#"{"kind":"other","unique":{"key":"a"}}"#),
        echo(),
    ] {
        assert_eq!(submitter.submit(&other).await, Ok(Submitted::Stored));
    }
    // A known id with a new key stores nothing.
    let id = first.id;
    let again = job(&format!(
        r#"{{"kind":"echo","id":"{id}","unique":{{"key":"c"}}}}"#
    ));
    assert_eq!(submitter.submit(&again).await, Ok(Submitted::Known));
    assert_eq!(messages(&client, "JOBS").await, 7);
}

#[tokio::test]
async fn jobs_that_are_stored_together_take_all_their_keys_or_none() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let jobs = [unique("a"), echo(), unique("b")];
    assert_eq!(submitter.submit_all(&jobs).await, Ok(()));
    assert_eq!(messages(&client, "JOBS").await, 5);
    let held = [echo(), unique("c"), keeping("b")];
    let conflict = SubmitError::Conflict {
        holder: jobs[2].id,
        key: "b".to_owned(),
    };
    assert_eq!(submitter.submit_all(&held).await, Err(conflict));
    let twice = [unique("d"), unique("d")];
    assert_eq!(
        submitter.submit_all(&twice).await,
        Err(SubmitError::SameKey("d".to_owned()))
    );
    assert_eq!(
        submitter.submit_all(&jobs).await,
        Err(SubmitError::SomeKnown)
    );
    let many: Vec<_> = (0..501).map(|number| unique(&number.to_string())).collect();
    let error = submitter.submit_all(&many).await.unwrap_err();
    assert_eq!(error, SubmitError::TooMany(501));
    assert_eq!(
        messages(&client, "JOBS").await,
        5,
        "nothing more was stored"
    );
    assert_eq!(submitter.submit_all(&many[..500]).await, Ok(()));
}

#[tokio::test]
async fn without_a_consumer_a_lock_counts_as_it_is_and_what_is_no_lock_is_an_error() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let id = JobId::generate();
    // printf 'echo\0a' | sha256sum | cut -c 1-32
    let subject = |hash: &str| format!("jobs.unique.{hash}");
    let hash = "3f610fbcf3e5a49b94488a4790694a3b";
    let lock = format!(r#"{{"job":"{id}","run":1}}"#);
    put(&client, subject(hash), HeaderMap::new(), lock).await;
    let key = "a".to_owned();
    let conflict = Err(SubmitError::Conflict { holder: id, key });
    assert_eq!(submitter.submit(&unique("a")).await, conflict);
    let hash = "2b9a53cefaa08941ce9a48631200e863";
    put(
        &client,
        subject(hash),
        HeaderMap::new(),
        "no lock".to_owned(),
    )
    .await;
    let error = submitter.submit(&unique("b")).await.unwrap_err();
    assert!(error.to_string().contains("is not a lock"), "{error}");
    let hash = hash.parse().unwrap();
    let found = unique_locks::read(&client.into(), hash).await.unwrap();
    assert!(found.unwrap().holder().is_none());
}

#[tokio::test]
async fn jobs_without_a_key_store_nothing_more_than_before() {
    let nats = lane().await;
    let client = nats.connect_as("application").await;
    submitter(&client).submit(&echo()).await.unwrap();
    let stored = jetstream::direct_get::last(&client.clone().into(), Stream::Jobs, ">").await;
    let stored = stored.unwrap().unwrap();
    let own = stored.headers.iter().filter(|(name, _)| {
        let name: &str = name.as_ref();
        name.starts_with("Jobs-")
    });
    let own: Vec<_> = own.map(|(name, _)| name.to_string()).collect();
    assert_eq!(own, ["Jobs-Fresh"]);
    let publisher = nats.connect_as("publisher").await;
    assert_eq!(messages(&publisher, "JOBS").await, 1);
}
