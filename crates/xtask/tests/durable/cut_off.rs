//! A consumer that the network cuts off.

use std::time::{Duration, Instant};

use common::{JobRecord, JobState, codes};
use serde_json::json;
use test_support::{DEADLINE, eventually};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane, succeeded_at_once};
use crate::proxy::Proxy;

#[tokio::test]
async fn a_consumer_that_is_cut_off_past_its_ack_wait_is_replaced_and_comes_back() {
    let lane = Lane::start().await;
    let proxy = Proxy::to(&lane.fixture.server);
    let arguments = ["--nats-url", &proxy.url()];
    let mut far = lane.consumer("far", &arguments).await;
    lane.hold(1);
    // One ends while it is cut off, and one when it is back.
    let jobs = lane
        .submit_all((0..2).map(|_| json!({"kind": "held"})))
        .await;
    for id in &jobs {
        lane.begun(*id, 1, DEADLINE).await;
    }
    let slow = lane
        .submit(json!({"kind": "sleep", "payload": {"ms": 600_000}, "timeout": "1h", "max_attempts": 1}))
        .await;
    lane.becomes(slow, JobState::Running).await;
    proxy.cut();
    let mut near = lane.consumer("near", &["--kinds", "held,note"]).await;
    // What waits does not wait for the one that is cut off.
    let waiting = lane
        .submit_all((0..100).map(|_| json!({"kind": "note"})))
        .await;
    let ended = lane
        .all_end(&jobs, ACK_WAIT + Duration::from_secs(10))
        .await;
    lane.account(&jobs, &ended, 2..=2);
    let before: Vec<_> = jobs.iter().map(|id| ended[id].clone()).collect();
    for record in &before {
        assert_eq!((record.state, record.attempt), (JobState::Succeeded, 2));
        assert_eq!(record.result.as_ref().unwrap().get(), "\"near\"");
        assert_eq!(record.failures[0].error.code, codes::LOST);
    }
    lane.release(1);
    proxy.mend();
    // Nobody else serves that kind, and it is still at it.
    lane.cancel(slow).await;
    lane.becomes(slow, JobState::Cancelled).await;
    lane.fixture
        .status_of("far", |status| status.in_flight == 0)
        .await;
    // Messages that were under way to it when it was cut off are given back, or delivered again.
    let ended = lane.all_end(&waiting, ACK_WAIT + DEADLINE).await;
    lane.account(&waiting, &ended, 0..=4);
    // It works again.
    stop(&mut near).await;
    let after = lane.submit(json!({"kind": "note"})).await;
    let record = lane.becomes(after, JobState::Succeeded).await;
    assert_eq!(record.consumer.as_deref(), Some("far"));
    stop(&mut far).await;
    for record in before {
        let now = lane.record(record.id).await.unwrap();
        assert_eq!(
            serde_json::to_value(record).unwrap(),
            serde_json::to_value(now).unwrap()
        );
    }
}

#[tokio::test]
async fn the_only_consumer_goes_on_with_what_it_runs_when_the_server_was_away_past_the_ack_wait() {
    let mut lane = Lane::start().await;
    let mut only = lane.consumer("only", &["--concurrency", "8"]).await;
    lane.hold(1);
    let jobs = lane
        .submit_all((0..3).map(|_| json!({"kind": "held", "max_attempts": 1})))
        .await;
    for id in &jobs {
        lane.begun(*id, 1, DEADLINE).await;
    }
    lane.fixture.server.kill().await;
    let since = Instant::now();
    eventually(DEADLINE, "the end of the ack wait", async || {
        (since.elapsed() > ACK_WAIT + Duration::from_secs(2)).then_some(())
    })
    .await;
    lane.fixture.server.start_again().await;
    // It takes jobs again, and with them those that it has already.
    let after = lane
        .submit_all((0..50).map(|_| json!({"kind": "note"})))
        .await;
    lane.all_end(&after, DEADLINE).await;
    lane.release(1);
    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 0..=0);
    succeeded_at_once(&ended);
    stop(&mut only).await;
}

#[tokio::test]
async fn an_attempt_that_another_consumer_has_replaced_is_stopped() {
    let lane = Lane::start().await;
    let proxy = Proxy::to(&lane.fixture.server);
    let mut far = lane.consumer("far", &["--nats-url", &proxy.url()]).await;
    let job = json!({"kind": "sleep", "payload": {"ms": 600_000}, "timeout": "1h"});
    let id = lane.submit(job).await;
    lane.becomes(id, JobState::Running).await;
    proxy.cut();
    let mut near = lane.consumer("near", &[]).await;
    let second = |record: &JobRecord| record.state == JobState::Running && record.attempt == 2;
    let replaced = lane
        .record_that(id, ACK_WAIT + DEADLINE, "a second attempt", second)
        .await;
    assert_eq!(replaced.consumer.as_deref(), Some("near"));
    proxy.mend();
    lane.fixture
        .status_of("far", |status| status.in_flight == 0)
        .await;
    // The attempt that replaced it goes on.
    let record = lane.record(id).await.unwrap();
    assert!(second(&record), "{record:?}");
    lane.cancel(id).await;
    lane.becomes(id, JobState::Cancelled).await;
    stop(&mut far).await;
    stop(&mut near).await;
}
