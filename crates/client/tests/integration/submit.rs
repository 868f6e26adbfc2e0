//! Handing jobs over.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use client::{NewJob, NotStored, Patience, SubmitError, Submitted, Submitter};
use common::subjects;
use futures_util::future::join_all;
use jetstream::{Entry, Message, Pace, Stream, Topology, Writer, direct_get};
use test_support::{DEADLINE, NatsServer};
use tokio::sync::watch;

use crate::support::{
    connected, echo, info, job, lane, messages, patience, put, small_lane, submitter,
};

#[tokio::test]
async fn many_jobs_at_a_time_are_all_stored_and_known_from_then_on() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let jobs: Vec<_> = (0..5_000).map(|_| echo()).collect();
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    assert!(
        results
            .iter()
            .all(|result| *result == Ok(Submitted::Stored))
    );
    assert_eq!(messages(&client, "JOBS").await, 5_000);
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    assert!(results.iter().all(|result| *result == Ok(Submitted::Known)));
    assert_eq!(messages(&client, "JOBS").await, 5_000);
}

#[tokio::test]
async fn a_job_is_known_by_its_id_whatever_else_it_says() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let id = common::JobId::generate();
    let one = job(&format!(r#"{{"id":"{id}","kind":"a"}}"#));
    let other = job(&format!(
        r#"{{"id":"{id}","kind":"b.c","priority":"high"}}"#
    ));
    assert_eq!(submitter.submit(&one).await, Ok(Submitted::Stored));
    assert_eq!(submitter.submit(&other).await, Ok(Submitted::Known));
    assert_eq!(messages(&client, "JOBS").await, 1);
}

#[tokio::test]
async fn bad_ones_among_many_take_no_other_along() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let known = echo();
    submitter.submit(&known).await.unwrap();
    let mut jobs: Vec<_> = (0..500).map(|_| echo()).collect();
    jobs[100] = known;
    let huge = "x".repeat(client.max_payload());
    jobs[200] = job(&format!(r#"{{"kind":"echo","payload":"{huge}"}}"#));
    jobs[300] = jobs[299].clone();
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    each_is_told_apart(&results);
    assert_eq!(messages(&client, "JOBS").await, 498);
}

/// A submitter that waits for NATS tries many jobs together.
#[tokio::test]
async fn bad_ones_among_many_that_are_submitted_together_take_no_other_along() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let patience = Patience {
        wait_for_nats: true,
        ..patience(DEADLINE)
    };
    let submitter = Submitter::over(&client.clone().into(), connected(), patience);
    let known = echo();
    submitter.submit(&known).await.unwrap();
    let mut jobs: Vec<_> = (0..500).map(|_| echo()).collect();
    jobs[100] = known;
    let huge = "x".repeat(client.max_payload());
    jobs[200] = job(&format!(r#"{{"kind":"echo","payload":"{huge}"}}"#));
    jobs[300] = jobs[299].clone();
    each_is_told_apart(&submitter.submit_each(&jobs).await);
    assert_eq!(messages(&client, "JOBS").await, 498);
    let unique = |key: &str| job(&format!(r#"{{"kind":"echo","unique":{{"key":"{key}"}}}}"#));
    let id = common::JobId::generate();
    let given = || job(&format!(r#"{{"id":"{id}","kind":"echo"}}"#));
    let jobs = [
        unique("a"),
        echo(),
        unique("a"),
        given(),
        unique("b"),
        given(),
    ];
    let results = submitter.submit_each(&jobs).await;
    let of_key = [&results[0], &results[2]].map(Result::is_ok);
    assert!(
        of_key == [true, false] || of_key == [false, true],
        "{results:?}"
    );
    let of_id = [&results[3], &results[5]];
    assert!(of_id.contains(&&Ok(Submitted::Stored)), "{results:?}");
    assert!(of_id.contains(&&Ok(Submitted::Known)), "{results:?}");
    assert!(results[1].is_ok() && results[4].is_ok(), "{results:?}");
    assert_eq!(submitter.submit_each(&[]).await, []);
}

/// Of 500 jobs the one at 100 is known, that at 200 is too large, and those at 299 and 300 are the same.
fn each_is_told_apart(results: &[Result<Submitted, SubmitError>]) {
    for (number, result) in results.iter().enumerate() {
        match number {
            100 => assert_eq!(*result, Ok(Submitted::Known)),
            200 => {
                let error = result.as_ref().unwrap_err();
                assert!(matches!(error, SubmitError::TooLarge { .. }), "{error}");
                assert!(error.to_string().contains("max_payload"), "{error}");
            }
            // Either of the two was first.
            299 | 300 => assert!(result.is_ok()),
            _ => assert_eq!(*result, Ok(Submitted::Stored), "{number}"),
        }
    }
    assert_ne!(results[299], results[300], "one job was stored twice");
}

#[tokio::test]
async fn a_server_that_is_killed_before_it_answers_has_each_job_once_in_the_end() {
    let mut nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = Submitter::over(&client.clone().into(), connected(), patience(DEADLINE));
    let waiting = Patience {
        wait_for_nats: true,
        ..patience(DEADLINE)
    };
    let together = Submitter::over(&client.clone().into(), connected(), waiting);
    let jobs: Vec<_> = (0..20_000).map(|_| echo()).collect();
    let (one_by_one, others) = jobs.split_at(10_000);
    let submitting = async {
        let one_by_one = join_all(one_by_one.iter().map(|job| submitter.submit(job)));
        let others = join_all(others.chunks(500).map(|jobs| together.submit_each(jobs)));
        let (mut results, others) = tokio::join!(one_by_one, others);
        results.extend(others.into_iter().flatten());
        results
    };
    let crash = async {
        // Not before some are stored.
        test_support::eventually(DEADLINE, "jobs", async || {
            (messages(&client, "JOBS").await > 0).then_some(())
        })
        .await;
        nats.kill().await;
        nats.start_again().await;
    };
    let (results, ()) = tokio::join!(submitting, crash);
    let count = |wanted| {
        results
            .iter()
            .filter(|result| **result == Ok(wanted))
            .count()
    };
    let (stored, known) = (count(Submitted::Stored), count(Submitted::Known));
    println!("submitted 20000, stored {stored}, known after a lost answer {known}");
    assert_eq!(
        stored + known,
        20_000,
        "{:?}",
        results.iter().find(|result| result.is_err())
    );
    assert_eq!(messages(&client, "JOBS").await, 20_000);
}

#[tokio::test]
async fn a_full_queue_is_a_clear_error_or_is_waited_for() {
    let nats = small_lane(20_000).await;
    let client = nats.connect_as("publisher").await;
    let submitter = Submitter::over(
        &client.clone().into(),
        connected(),
        patience(Duration::from_secs(3)),
    );
    let jobs: Vec<_> = (0..200).map(|_| echo()).collect();
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    let full = results.iter().filter(|result| result.is_err()).count();
    println!("submitted 200, refused {full}");
    assert!((1..200).contains(&full), "{:?}", results[0]);
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error, SubmitError::Full { .. }), "{error:?}");
    let error = error.to_string();
    assert!(
        error.contains("JOBS") && error.contains("maximum bytes"),
        "{error}"
    );
    let mut patience = patience(Duration::from_millis(300));
    patience.wait_for_room = true;
    let waits = Submitter::over(&client.clone().into(), connected(), patience);
    let job = echo();
    let mut submitting = std::pin::pin!(waits.submit(&job));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut submitting).await;
    assert!(early.is_err(), "{early:?}");
    let worker = nats.connect_as("worker").await;
    let purged = worker.request("$JS.API.STREAM.PURGE.JOBS", "".into()).await;
    purged.unwrap();
    let result = tokio::time::timeout(DEADLINE, submitting).await;
    assert_eq!(result.unwrap(), Ok(Submitted::Stored));
}

#[tokio::test]
async fn a_thousand_are_stored_together_or_not_at_all() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let mut jobs: Vec<_> = (0..1_000).map(|_| echo()).collect();
    submitter.submit(&jobs[500]).await.unwrap();
    assert_eq!(
        submitter.submit_all(&jobs).await,
        Err(SubmitError::SomeKnown)
    );
    assert_eq!(messages(&client, "JOBS").await, 1);
    jobs[500] = echo();
    submitter.submit_all(&jobs).await.unwrap();
    assert_eq!(messages(&client, "JOBS").await, 1_001);
    jobs.push(echo());
    assert_eq!(
        submitter.submit_all(&jobs).await,
        Err(SubmitError::TooMany(1_001))
    );
    // The same job twice.
    let twice: Vec<NewJob> = vec![jobs[1_000].clone(), jobs[1_000].clone()];
    let error = submitter.submit_all(&twice).await.unwrap_err();
    assert!(matches!(error, SubmitError::Twice(_)), "{error:?}");
    assert_eq!(messages(&client, "JOBS").await, 1_001);
}

#[tokio::test]
async fn nobody_waits_for_an_answer_to_a_lost_connection() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let (up, connected) = watch::channel(true);
    let writer = Writer::start(client.clone().into(), connected, Pace::Prompt);
    // It never answers.
    nats.pause();
    let entry = |number: u32| {
        let subject = format!("jobs.durable.{number}.normal.1.a");
        let (headers, payload) = (HeaderMap::new(), Bytes::new());
        vec![Message {
            subject,
            headers,
            payload,
        }]
    };
    let storing = join_all((0..10).map(|number| writer.store(entry(number))));
    // The library tells of a lost connection and of the next one, perhaps before anybody has looked;
    // and again, until that came after all batches were sent.
    let mut losses = tokio::time::interval(Duration::from_millis(20));
    let losing = async {
        loop {
            losses.tick().await;
            up.send(false).unwrap();
            up.send(true).unwrap();
        }
    };
    let results = tokio::select! {
        results = storing => results,
        () = losing => unreachable!("it has no end"),
    };
    for result in results {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("lost before the answer"), "{error}");
    }
    nats.resume();
}

#[tokio::test]
async fn jobs_that_go_together_and_whose_answer_was_lost_are_told_from_others() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let writer = Writer::start(client.clone().into(), connected(), Pace::Prompt);
    for count in [1, 2, 100] {
        let jobs: Vec<_> = (0..count).map(|_| echo()).collect();
        let mark = common::JobId::generate().to_string();
        let entry = || -> Entry {
            let messages = jobs.iter().enumerate().map(|(number, job)| {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
                if number == 0 {
                    headers.insert("Nats-Msg-Id", mark.as_str());
                }
                Message {
                    subject: subjects::durable_job(job.id, job.priority, 1, &job.kind),
                    headers,
                    payload: job.payload.clone(),
                }
            });
            messages.collect()
        };
        writer.store(entry()).await.unwrap();
        let again = writer.store(entry()).await;
        // Of a message that comes alone the server looks at the guard first.
        let expected = if count == 1 {
            NotStored::Conflict
        } else {
            NotStored::Repeated
        };
        assert_eq!(again, Err(expected), "{count}");
    }
    assert_eq!(messages(&client, "JOBS").await, 103);
}

#[tokio::test]
async fn batches_are_as_large_as_the_server_takes_them() {
    const JOBS: usize = 3000;
    for (limit, expected) in [(1000, 1000..=1000), (4000, 1001..=JOBS)] {
        let config = format!(
            "jetstream {{ store_dir: $NATS_STORE_DIR, sync_interval: always,
                          limits {{ batch {{ max_msgs: {limit} }} }} }}"
        );
        let nats = NatsServer::builder().open().config(&config).start().await;
        let client = nats.connect_as("worker").await;
        let nats_client = client.clone().into();
        Topology::default().ensure(&nats_client).await.unwrap();
        // The first batches wait for the connection, and the others for these.
        let (up, connected) = watch::channel(false);
        let writer = Writer::start(nats_client.clone(), connected, Pace::Prompt);
        let jobs: Vec<_> = (0..JOBS).map(|_| echo()).collect();
        let stored = join_all(jobs.iter().map(|job| {
            let subject = subjects::durable_job(job.id, job.priority, 1, &job.kind);
            let payload = job.payload.clone();
            let headers = HeaderMap::new();
            writer.store(vec![Message {
                subject,
                headers,
                payload,
            }])
        }));
        let connect = async {
            // Each time, more than a hundred of them come to the writer.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            up.send(true).unwrap();
        };
        let (stored, ()) = tokio::join!(stored, connect);
        let sequences: BTreeSet<_> = stored.into_iter().map(Result::unwrap).collect();
        assert_eq!(sequences, (1..=3000).collect(), "limit {limit}");
        let mut most = 0;
        for sequence in sequences {
            let message = direct_get::at(&nats_client, Stream::Jobs, sequence).await;
            let headers = message.unwrap().unwrap().headers;
            let place = headers.get("Nats-Batch-Sequence").unwrap();
            most = most.max(place.as_str().parse().unwrap());
        }
        assert!(expected.contains(&most), "{most} with the limit {limit}");
    }
}

#[tokio::test]
async fn a_job_for_later_enters_the_queue_like_all_others() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let submitter = submitter(&client);
    let jobs = [0; 4]
        .map(|_| job(r#"{"kind":"mail.send","priority":"low","run_at":"2200-01-31T09:30:00Z"}"#));
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    assert_eq!(results, vec![Ok(Submitted::Stored); 4]);
    let results = join_all(jobs.iter().map(|job| submitter.submit(job))).await;
    assert_eq!(results, vec![Ok(Submitted::Known); 4]);
    // Nobody but a consumer puts it off.
    assert_eq!(messages(&client, "JOBS").await, 4);
    assert_eq!(messages(&client, "JOBS_LATER").await, 0);
}

#[tokio::test]
async fn without_a_stream_or_jetstream_it_says_so() {
    for nats in [
        NatsServer::start().await,
        NatsServer::builder().without_jetstream().start().await,
    ] {
        let client = nats.connect_as("publisher").await;
        let submitter = Submitter::over(
            &client.clone().into(),
            connected(),
            patience(Duration::from_secs(3)),
        );
        let error = submitter.submit(&echo()).await.unwrap_err();
        assert!(matches!(error, SubmitError::NoStream(_)), "{error:?}");
        assert!(error.to_string().contains("JOBS"), "{error}");
    }
}

#[tokio::test]
async fn without_nats_a_job_waits_if_it_is_told_to_and_else_fails_in_time() {
    let mut nats = lane().await;
    let client = nats.connect_as("publisher").await;
    nats.kill().await;
    let hurried = Submitter::over(
        &client.clone().into(),
        connected(),
        patience(Duration::from_millis(200)),
    );
    let error = hurried.submit(&echo()).await.unwrap_err();
    assert!(
        matches!(error, SubmitError::MayBeStored { .. }),
        "{error:?}"
    );
    let (up, connected) = watch::channel(false);
    let mut patience = patience(Duration::from_secs(20));
    patience.wait_for_nats = true;
    let patient = Submitter::over(&client.clone().into(), connected, patience);
    let job = echo();
    let mut submitting = std::pin::pin!(patient.submit(&job));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut submitting).await;
    assert!(early.is_err());
    nats.start_again().await;
    up.send_replace(true);
    assert_eq!(submitting.await, Ok(Submitted::Stored));
}

#[tokio::test]
async fn headers_travel_with_a_job() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let client = nats.connect_as("publisher").await;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-1-2-01");
    let job = NewJob { headers, ..echo() };
    submitter(&client).submit(&job).await.unwrap();
    let body = r#"{"last_by_subj":"jobs.durable.>"}"#;
    let answer = worker.request("$JS.API.DIRECT.GET.JOBS", body.into()).await;
    let headers = answer.unwrap().headers.unwrap();
    assert_eq!(headers.get("traceparent").unwrap().as_str(), "00-1-2-01");
}

#[tokio::test]
async fn a_plain_request_of_any_client_is_the_same_submission() {
    let nats = lane().await;
    let client = nats.connect_as("publisher").await;
    let job = echo();
    let subject = subjects::durable_job(job.id, job.priority, 1, &job.kind);
    let text = String::from_utf8(job.payload.to_vec()).unwrap();
    put(&client, subject, HeaderMap::new(), text).await;
    assert_eq!(submitter(&client).submit(&job).await, Ok(Submitted::Known));
    assert_eq!(info(&client, "JOBS").await["state"]["messages"], 1);
}
