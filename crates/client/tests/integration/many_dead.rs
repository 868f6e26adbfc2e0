//! Many dead letters at once.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use client::dead_letters::{self, Action, Remaining};
use client::{Replayed, Which};
use common::JobId;
use connection::NatsClient;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{bury, lane, messages, put, put_record};

async fn pages(client: &NatsClient, which: &Which, most: usize) -> Vec<JobId> {
    let (mut ids, mut cursor) = (Vec::new(), None);
    loop {
        let page = dead_letters::newest(client, which, cursor, most)
            .await
            .unwrap();
        assert!(page.letters.len() <= most);
        ids.extend(page.letters.iter().map(|letter| letter.id));
        let Some(next) = page.next else { return ids };
        cursor = Some(next.to_string().parse().unwrap());
    }
}

/// Gives a job up because of such an error; its letter may have no room for that.
async fn bury_for(worker: &async_nats::Client, message: &str, in_letter: bool) -> JobId {
    let id = JobId::generate();
    let failures = json!([{
        "attempt": 1, "consumer": "consumer-1", "at": "2026-01-31T09:30:00Z",
        "error": {"code": "permanent", "message": message},
    }]);
    let fields = json!({"state": "dead", "reason": "permanent", "failures": failures});
    put_record(worker, id, fields).await;
    let mut headers = HeaderMap::new();
    headers.insert("Jobs-Reason", "permanent");
    if in_letter {
        headers.insert("Jobs-Failures", failures.to_string());
    }
    let job = json!({"id": id, "kind": "echo"}).to_string();
    let subject = common::subjects::dead(id, &"echo".parse().unwrap());
    put(worker, subject, headers, job).await;
    id
}

fn error(message: &str) -> Which {
    Which {
        error: Some(message.to_owned()),
        ..Which::default()
    }
}

/// Does something with all of them, and says with how many.
async fn apply_to_all(
    action: Action,
    client: &NatsClient,
    which: &Which,
    rate: Option<NonZeroU32>,
    stop: CancellationToken,
    mut progress: impl FnMut(u64),
) -> u64 {
    let mut done = 0;
    let mut remaining = Remaining::new(client, which, rate).await.unwrap();
    while let Some(next) = stop.run_until_cancelled(remaining.next()).await {
        let Some(letter) = next.unwrap() else { break };
        let replayed = action.apply(client, &letter).await.unwrap();
        assert_eq!(replayed, Replayed::Yes);
        done += 1;
        progress(done);
    }
    done
}

#[tokio::test]
async fn they_are_counted_and_listed_newest_first() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway: NatsClient = nats.connect_as("gateway").await.into();
    assert_eq!(dead_letters::count(&gateway).await.unwrap(), 0);
    let (mut expected, mut mails) = (Vec::new(), Vec::new());
    for number in 0..120 {
        let kind = if number % 10 == 0 {
            "mail.send"
        } else {
            "mail"
        };
        let id = bury(&worker, kind, "permanent").await;
        expected.insert(0, id);
        if number % 10 == 0 {
            mails.insert(0, id);
        }
    }
    assert_eq!(dead_letters::count(&gateway).await.unwrap(), 120);
    for most in [1, 7, 120, 500] {
        assert_eq!(pages(&gateway, &Which::default(), most).await, expected);
    }
    let which = Which {
        kind: Some("mail.send".parse().unwrap()),
        ..Which::default()
    };
    assert_eq!(pages(&gateway, &which, 5).await, mails);
    for text in ["", "x", "0a", "+1", "1-2"] {
        assert!(text.parse::<dead_letters::Cursor>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn they_are_grouped_by_error_and_a_group_is_replayed_or_discarded() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway: NatsClient = nats.connect_as("gateway").await.into();
    let mut last = JobId::generate();
    for number in 0..6 {
        last = bury_for(&worker, &format!("row {number} is bad"), number != 4).await;
    }
    for number in 0..3 {
        bury_for(&worker, &format!("no host {number}"), true).await;
    }
    let all = dead_letters::groups(&gateway, &Which::default(), 100)
        .await
        .unwrap();
    assert!(all.complete);
    assert_eq!(all.looked_at, 9);
    let told: Vec<_> = all
        .groups
        .iter()
        .map(|group| (group.message.as_str(), group.code.as_str(), group.count))
        .collect();
    assert_eq!(
        told,
        [
            ("row # is bad", "permanent", 6),
            ("no host #", "permanent", 3)
        ]
    );
    assert_eq!(all.groups[0].example, last);
    assert!(all.groups[0].oldest <= all.groups[0].newest);
    let some = dead_letters::groups(&gateway, &Which::default(), 5)
        .await
        .unwrap();
    assert_eq!((some.looked_at, some.complete), (5, false));
    let nothing = error("nothing like this");
    let none = dead_letters::groups(&gateway, &nothing, 5).await.unwrap();
    assert_eq!((none.looked_at, none.complete), (0, false));

    let rows = error("row # is bad");
    assert_eq!(pages(&gateway, &rows, 4).await.len(), 6);
    let stop = CancellationToken::new();
    let mut progress = Vec::new();
    let replayed = apply_to_all(
        Action::Replay,
        &gateway,
        &rows,
        None,
        stop.clone(),
        |done| {
            progress.push(done);
        },
    );
    assert_eq!(replayed.await, 6);
    assert_eq!(progress, [1, 2, 3, 4, 5, 6]);
    assert_eq!(messages(&gateway, "JOBS").await, 6);
    let hosts = error("no host #");
    let discarded = apply_to_all(Action::Discard, &gateway, &hosts, None, stop, |_| {});
    assert_eq!(discarded.await, 3);
    assert_eq!(dead_letters::count(&gateway).await.unwrap(), 0);
}

#[tokio::test]
async fn they_are_replayed_at_a_rate_until_it_is_enough() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway: NatsClient = nats.connect_as("gateway").await.into();
    for _ in 0..12 {
        bury(&worker, "mail", "permanent").await;
    }
    let stop = CancellationToken::new();
    let (all, started) = (Which::default(), Instant::now());
    let replayed = apply_to_all(
        Action::Replay,
        &gateway,
        &all,
        NonZeroU32::new(20),
        stop.clone(),
        |done| {
            if done == 5 {
                stop.cancel();
            }
        },
    );
    assert_eq!(replayed.await, 5);
    // The first at once, the others 50 ms apart.
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(dead_letters::count(&gateway).await.unwrap(), 7);
    // Told to stop, it does not even look; and no rate is too high.
    let none = apply_to_all(Action::Replay, &gateway, &all, None, stop, |_| {});
    assert_eq!(none.await, 0);
    let rest = apply_to_all(
        Action::Replay,
        &gateway,
        &all,
        Some(NonZeroU32::MAX),
        CancellationToken::new(),
        |_| {},
    );
    assert_eq!(rest.await, 7);
}

#[tokio::test]
async fn large_ones_are_replayed_whole_though_few_are_read_at_a_time() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway: NatsClient = nats.connect_as("gateway").await.into();
    let payload = "x".repeat(900_000);
    let mut jobs = Vec::new();
    for _ in 0..7 {
        let id = JobId::generate();
        let job = json!({"id": id, "kind": "echo", "payload": payload}).to_string();
        let subject = common::subjects::dead(id, &"echo".parse().unwrap());
        put(&worker, subject, HeaderMap::new(), job.clone()).await;
        jobs.push((id, job));
    }
    let (all, stop) = (Which::default(), CancellationToken::new());
    let replayed = apply_to_all(Action::Replay, &gateway, &all, None, stop, |_| {});
    assert_eq!(replayed.await, 7);
    assert_eq!(dead_letters::count(&gateway).await.unwrap(), 0);
    for (id, job) in jobs {
        let last = json!({"last_by_subj": format!("jobs.durable.{id}.>")}).to_string();
        let queued = gateway.request("$JS.API.DIRECT.GET.JOBS", last.into());
        assert!(queued.await.unwrap().payload == job, "{id} is another");
    }
}
