//! What somebody who may submit, or look, or operate can do to the jobs of others that wait for
//! their time: nothing, whatever bytes it sends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use async_nats::{HeaderMap, HeaderValue, Message};
use common::{JobId, JobState, Timestamp, subjects};
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually, project_root};

use crate::lane::Lane;
use crate::raw_client::{Login, RawClient};

/// The user of another program, as deploy/nats.conf describes it.
const BILLING: &str = r#"
    { user: billing, password: OnlyForThisTest, permissions {
        publish { allow: ["jobs.create", "jobs.create.>", "_INBOX.billing.>"] }
        subscribe { allow: ["_INBOX.billing.>"] } } },
"#;

/// A server as deploy/nats.conf says, with that user as well.
async fn server() -> NatsServer {
    let text = fs::read_to_string(project_root().join("deploy/nats.conf")).unwrap();
    let accounts = &text[text.find("\naccounts {").unwrap()..];
    let with_billing = accounts.replacen("users = [", &format!("users = [\n{BILLING}"), 1);
    NatsServer::builder().config(&with_billing).start().await
}

/// The headers of hostile messages; `VICTIM` stands for the id of a job that waits.
const HEADERS: &[&str] = &[
    "Nats-Rollup: all",
    "Nats-Rollup: sub",
    "X: 1\r\nNats-Rollup: all",
    "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: jobs.due.VICTIM.normal.2.note",
    "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: jobs.due.VICTIM.normal.2.note",
    "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: jobs.later.VICTIM",
    "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: jobs.state.VICTIM\r\nNats-Schedule-Rollup: all",
    "Nats-Schedule-Next: purge\r\nNats-Scheduler: jobs.later.VICTIM",
    "Nats-Schedule-Next: purge\r\nNats-Scheduler: jobs.later.VICTIM\r\nNats-Expected-Last-Subject-Sequence: 1\r\nNats-Expected-Last-Subject-Sequence-Subject: jobs.later.VICTIM",
    "Nats-TTL: 1s",
    "Nats-TTL: 1s\r\nNats-Rollup: all",
    "Nats-Batch-Id: a\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1\r\nNats-Rollup: all",
    "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Rollup: sub",
    "Nats-Marker-Reason: Purge",
    "KV-Operation: PURGE",
    // Spellings that a server or a client may take for those above.
    "nats-rollup: all\r\nNATS-SCHEDULE: @every 1s",
    "nats-Schedule-Next: purge\r\nnats-Scheduler: jobs.later.VICTIM",
    "Nats-Rollup:all",
    "Nats-Rollup : all",
    " Nats-Rollup: all",
    "\tNats-Rollup: all",
    "X: a\nNats-Rollup: all",
    "X: a\rNats-Rollup: all",
    "X: a\r\n Nats-Rollup: all",
    "X: a\r\n\r\nNats-Rollup: all",
    "Nats_Rollup: all\r\n:Nats-Rollup: all",
];

/// A message as bytes.
fn message(subject: &str, headers: &str, payload: &str) -> String {
    let headers = format!("NATS/1.0\r\n{headers}\r\n\r\n");
    let total = headers.len() + payload.len();
    format!(
        "HPUB {subject} {} {total}\r\n{headers}{payload}\r\n",
        headers.len()
    )
}

/// Each job that waits: its subject, sequence, headers and bytes.
async fn waiting(lane: &Lane, ids: &[JobId]) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for id in ids {
        let kept = lane.last("JOBS_LATER", &subjects::later(*id)).await;
        let kept = kept.unwrap_or_else(|| panic!("{id} does not wait any more"));
        let headers = kept.headers.unwrap();
        let of = |name: &str| headers.get(name).map_or("", |value| value.as_str());
        let schedule = [of("Nats-Schedule"), of("Nats-Schedule-Target")].join(" ");
        let body = String::from_utf8(kept.payload.to_vec()).unwrap();
        all.push((of("Nats-Sequence").to_owned(), schedule, body));
    }
    all
}

/// The headers of a schedule that mean something to the server, some of them its own; without the
/// values that differ from one to the other.
fn of_the_server(kept: &Message) -> BTreeMap<String, String> {
    let headers = kept.headers.iter().flat_map(HeaderMap::iter);
    headers
        .map(|(name, values)| {
            let values: Vec<_> = values.iter().map(HeaderValue::as_str).collect();
            (name.to_string(), values.join(" "))
        })
        .filter(|(name, _)| name.to_ascii_lowercase().starts_with("nats-"))
        // A consumer stores several schedules at once.
        .filter(|(name, value)| {
            let ours = name != "Nats-Batch-Id" || value.len() == 32;
            assert!(ours, "the batch of a hostile message: {value}");
            !name.starts_with("Nats-Batch-")
        })
        .map(|(name, value)| match &*name {
            "Nats-Schedule-Target" | "Nats-Subject" | "Nats-Sequence" | "Nats-Time-Stamp" => {
                (name, String::new())
            }
            _ => (name, value),
        })
        .collect()
}

#[tokio::test]
async fn whatever_is_sent_by_whoever_jobs_that_wait_are_neither_lost_nor_moved_nor_run_early() {
    let lane = Lane::on(server().await).await;
    let _one = lane.consumer("one", &[]).await;
    let _two = lane.consumer("two", &[]).await;
    let hour = Timestamp::now().shifted(3_600_000);
    let mut victims = Vec::new();
    for number in 0..20 {
        let job = json!({"kind": "note", "run_at": hour, "payload": number});
        victims.push(lane.submit(job).await);
    }
    for _ in 0..5 {
        // Jitter may choose a short wait; an hour and more it is hardly ever.
        let backoff = json!({"initial": "1000h", "factor": 1, "max": "1000h"});
        let job = json!({"kind": "fail", "payload": {}, "backoff": backoff});
        victims.push(lane.submit(job).await);
    }
    eventually(DEADLINE, "all jobs to wait", async || {
        (lane.count("JOBS_LATER", "jobs.later.*").await == victims.len()).then_some(())
    })
    .await;
    lane.queue_empties().await;
    let before = waiting(&lane, &victims).await;

    let server = &lane.fixture.server;
    let mut hostile = Vec::new();
    for user in ["publisher", "status", "operator", "gateway", "billing"] {
        let login = if user == "billing" {
            Login {
                user: user.to_owned(),
                password: "OnlyForThisTest".to_owned(),
            }
        } else {
            Login::of(server, user)
        };
        let mut client = RawClient::log_in(server, Some(&login)).unwrap();
        for (number, headers) in HEADERS.iter().enumerate() {
            let victim = victims[number % victims.len()];
            let headers = headers.replace("VICTIM", &victim.to_string());
            let new = JobId::generate();
            let job = json!({"id": new, "kind": "note", "run_at": hour}).to_string();
            let mut all = String::new();
            for subject in [
                subjects::later(victim),
                subjects::later(new),
                format!("jobs.due.{victim}.normal.2.note"),
                format!("jobs.due.{new}.normal.1.note"),
                format!("jobs.durable.{new}.normal.1.note"),
                // An id that is known, and a run that is to come.
                format!("jobs.durable.{victim}.low.1.note"),
                format!("jobs.durable.{victim}.low.2.note"),
                subjects::state(new),
                subjects::overdue(1, victim),
            ] {
                write!(all, "{}", message(&subject, &headers, &job)).unwrap();
            }
            // Also with bytes that make a job of that id.
            let job = json!({"id": victim, "kind": "note"}).to_string();
            for run in 1..=3 {
                let subject = format!("jobs.durable.{victim}.high.{run}.note");
                write!(all, "{}", message(&subject, &headers, &job)).unwrap();
            }
            let subject = format!("jobs.durable.{victim}.high.1.mail.send");
            let job = json!({"id": victim, "kind": "mail.send"}).to_string();
            write!(all, "{}", message(&subject, &headers, &job)).unwrap();
            client.complaints(&all);
            hostile.push(new);
        }
    }
    // They were all looked at when this one has run.
    let last = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(last, JobState::Succeeded).await;

    assert_eq!(waiting(&lane, &victims).await, before);
    let ledger = lane.ledger();
    for id in &victims {
        assert!(ledger.of(*id).is_empty(), "{id} was run early");
        let record = lane.record(*id).await.unwrap();
        let waits = matches!(record.state, JobState::Scheduled | JobState::Retrying);
        assert!(waits, "{record:?}");
    }
    // Those of the hostile jobs that were taken wait like all others, and carry nothing that means
    // something to the server into their schedules.
    let usual = lane.last("JOBS_LATER", &subjects::later(victims[0])).await;
    let as_usual = of_the_server(&usual.unwrap());
    let mut taken = 0;
    for id in hostile {
        let Some(kept) = lane.last("JOBS_LATER", &subjects::later(id)).await else {
            continue;
        };
        taken += 1;
        assert_eq!(of_the_server(&kept), as_usual, "{id}");
        let headers = kept.headers.unwrap();
        let schedule = headers.get("Nats-Schedule").unwrap().as_str();
        assert_eq!(schedule, format!("@at {hour}"));
    }
    assert!(taken > 0, "none of the hostile jobs was taken at all");
    println!("25 jobs wait as before; {taken} of the hostile ones were taken as jobs");
}
