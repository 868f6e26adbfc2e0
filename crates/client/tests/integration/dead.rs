//! The dead letters.

use async_nats::{Client, HeaderMap};
use client::dead_letters::LeftAsItIs;
use client::{Replayed, Which, dead_letters, look_up};
use common::{DeadReason, JobId, JobState, codes, subjects};
use futures_util::future::join_all;
use serde_json::{Value, json};
use test_support::NatsServer;

use crate::support::{bury, lane, messages, put, put_record};

/// The one message in the queue: its subject, headers and body.
async fn queued(client: &Client) -> (String, HeaderMap, Value) {
    let last = r#"{"last_by_subj":"jobs.durable.>"}"#;
    let answer = client.request("$JS.API.DIRECT.GET.JOBS", last.into());
    let answer = answer.await.unwrap();
    let headers = answer.headers.unwrap();
    let subject = headers.get("Nats-Subject").unwrap().to_string();
    let body = serde_json::from_slice(&answer.payload).unwrap();
    (subject, headers, body)
}

async fn letters(client: &Client) -> usize {
    let all = dead_letters::list(&client.clone().into(), &Which::default(), 0, usize::MAX).await;
    all.unwrap().len()
}

/// A server with the lane, and those who bury and who see to the dead.
async fn stand() -> (NatsServer, Client, Client) {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let operator = nats.connect_as("operator").await;
    (nats, worker, operator)
}

#[tokio::test]
async fn they_are_listed_by_kind_and_reason_and_shown_as_they_were() {
    let (_nats, worker, operator) = stand().await;
    assert_eq!(letters(&operator).await, 0);
    let mut ids = Vec::new();
    for number in 0..250 {
        let (kind, reason) = if number % 10 == 0 {
            ("mail.send", "permanent")
        } else {
            ("mail", "attempts_used_up")
        };
        ids.push(bury(&worker, kind, reason).await);
    }
    let all = dead_letters::list(&operator.clone().into(), &Which::default(), 0, usize::MAX).await;
    let all: Vec<_> = all.unwrap().iter().map(|letter| letter.id).collect();
    assert_eq!(all, ids);
    let of_kind = Which {
        kind: Some("mail.send".parse().unwrap()),
        ..Which::default()
    };
    let some = dead_letters::list(&operator.clone().into(), &of_kind, 0, usize::MAX).await;
    assert_eq!(some.unwrap().len(), 25);
    let for_reason = Which {
        reason: Some(DeadReason::Permanent),
        ..Which::default()
    };
    let few = dead_letters::list(&operator.clone().into(), &for_reason, 0, 20)
        .await
        .unwrap();
    assert_eq!(few.len(), 20);
    let after = few.last().unwrap().position();
    let rest = dead_letters::list(&operator.clone().into(), &for_reason, after, 20).await;
    assert_eq!(rest.unwrap().len(), 5);
    let letter = dead_letters::show(&operator.clone().into(), ids[0])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(letter.kind.as_str(), "mail.send");
    assert_eq!(letter.reason, Some(DeadReason::Permanent));
    assert_eq!(letter.failures[0].error.message, "no such address");
    let headers: Vec<_> = letter
        .headers
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(headers, ["traceparent"], "only those of the job are shown");
    // Lists do not hold the job, and know how large it is.
    let size = letter.payload.len();
    let newest = dead_letters::newest(&operator.clone().into(), &Which::default(), None, 250).await;
    let oldest = newest.unwrap().letters.pop().unwrap();
    assert_eq!((oldest.id, oldest.size), (ids[0], size));
    let first = dead_letters::list(&operator.clone().into(), &Which::default(), 0, 1).await;
    assert_eq!(first.unwrap()[0].size, size);
    assert_eq!(letter.summary().size, size);
    let nobody = dead_letters::show(&operator.clone().into(), JobId::generate())
        .await
        .unwrap();
    assert!(nobody.is_none());
}

/// A letter with these headers, and the record of its job as it is stored, if there is one.
async fn letter_with(worker: &Client, headers: HeaderMap, record: Option<String>) -> JobId {
    let id = JobId::generate();
    if let Some(record) = record {
        let record = record.replace("ID", &id.to_string());
        put(worker, subjects::state(id), HeaderMap::new(), record).await;
    }
    let job = json!({"id": id, "kind": "mail"}).to_string();
    put(
        worker,
        subjects::dead(id, &"mail".parse().unwrap()),
        headers,
        job,
    )
    .await;
    id
}

#[tokio::test]
async fn a_letter_without_failures_has_those_of_its_record_wherever_it_is_read() {
    let (_nats, worker, operator) = stand().await;
    let failures = |message: &str| {
        json!([
            {
                "attempt": 1, "at": "2026-01-31T09:30:00Z",
                "error": {"code": "transient", "message": message},
            },
            {
                "attempt": 0, "at": "2026-01-31T09:31:00Z",
                "error": {"code": "replayed", "message": "the job was replayed"},
            },
        ])
    };
    let record = json!({
        "id": "ID", "kind": "mail", "state": "dead", "at": "2026-01-31T09:30:00Z", "run": 1,
        "attempt": 1, "reason": "no_handler", "failures": failures("of the record"),
    });
    let record = || Some(record.to_string());
    let mut full = HeaderMap::new();
    full.insert("Jobs-Reason", "permanent");
    full.insert("Jobs-Failures", failures("of the letter").to_string());
    let mut brief = HeaderMap::new();
    brief.insert("Jobs-Reason", "permanent");
    let unreadable = Some("no record".to_owned());
    let of_the_letter = (Some(DeadReason::Permanent), Some("of the letter"));
    let of_the_record = (Some(DeadReason::Permanent), Some("of the record"));
    let all_of_the_record = (Some(DeadReason::NoHandler), Some("of the record"));
    let nothing = (Some(DeadReason::Permanent), None);
    let mut expected = Vec::new();
    for (headers, record, known) in [
        (&full, record(), of_the_letter),
        (&brief, record(), of_the_record),
        (&HeaderMap::new(), record(), all_of_the_record),
        (&brief, unreadable, nothing),
        (&brief, None, nothing),
    ] {
        let id = letter_with(&worker, headers.clone(), record).await;
        let letter = dead_letters::show(&operator.clone().into(), id)
            .await
            .unwrap()
            .unwrap();
        let letter = letter.summary();
        assert_eq!(known_of(&letter), known);
        assert_eq!(letter.attempts, usize::from(known.1.is_some()));
        expected.push((id, known));
    }
    let which = Which::default();
    let listed = dead_letters::list(&operator.clone().into(), &which, 0, 10)
        .await
        .unwrap();
    let mut newest = dead_letters::newest(&operator.clone().into(), &which, None, 10)
        .await
        .unwrap();
    newest.letters.reverse();
    for letters in [listed, newest.letters] {
        let told: Vec<_> = letters
            .iter()
            .map(|letter| (letter.id, known_of(letter)))
            .collect();
        assert_eq!(told, expected);
    }
    // The reason, too, can be that of the record.
    let which = Which {
        reason: Some(DeadReason::NoHandler),
        ..which
    };
    let newest = dead_letters::newest(&operator.clone().into(), &which, None, 10)
        .await
        .unwrap();
    assert_eq!(newest.letters.len(), 1);
}

fn known_of(letter: &dead_letters::Summary) -> (Option<DeadReason>, Option<&str>) {
    let error = letter.error.as_ref();
    (letter.reason, error.map(|error| error.message.as_ref()))
}

#[tokio::test]
async fn what_was_wrong_with_a_job_that_cannot_be_read_tells_its_group() {
    let (_nats, worker, operator) = stand().await;
    let failures = json!([{
        "attempt": 0, "at": "2026-01-31T09:30:00Z",
        "error": {"code": "invalid_job", "message": "unknown field `kid`"},
    }]);
    let mut headers = HeaderMap::new();
    headers.insert("Jobs-Reason", "undecodable");
    headers.insert("Jobs-Failures", failures.to_string());
    letter_with(&worker, headers, None).await;
    let groups = dead_letters::groups(&operator.clone().into(), &Which::default(), 10).await;
    assert_eq!(groups.unwrap().groups[0].message, "unknown field `kid`");
}

#[tokio::test]
async fn a_letter_is_replayed_once_however_many_try() {
    let (_nats, worker, operator) = stand().await;
    let id = bury(&worker, "mail.send", "permanent").await;
    let letter = dead_letters::show(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    let replays = join_all(
        (0..20).map(async |_| dead_letters::replay(&operator.clone().into(), &letter, None).await),
    )
    .await;
    let done = replays
        .iter()
        .filter(|replayed| *replayed.as_ref().unwrap() == Replayed::Yes)
        .count();
    assert_eq!(done, 1);
    assert_eq!(messages(&operator, "JOBS").await, 1);
    assert_eq!(letters(&operator).await, 0);
    let (subject, headers, body) = queued(&operator).await;
    assert_eq!(subject, format!("jobs.durable.{id}.high.2.mail.send"));
    assert_eq!(headers.get("traceparent").unwrap().as_str(), "00-1-2-01");
    assert!(headers.get("Jobs-Reason").is_none());
    assert_eq!(body["payload"], json!({"to": "a"}));
    let record = look_up(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (record.state, record.run, record.attempt),
        (JobState::Queued, 2, 0)
    );
    // What happened before is kept, and the attempts are counted anew.
    assert_eq!(record.failures.len(), 2);
    let mark = record.failures.last().unwrap();
    assert_eq!(
        (mark.attempt, mark.error.code.as_ref()),
        (0, codes::REPLAYED)
    );
    // Once it has gone on, the old letter replays nothing any more.
    put_record(&worker, id, json!({"state": "succeeded", "run": 2})).await;
    let again = dead_letters::replay(&operator.clone().into(), &letter, None)
        .await
        .unwrap();
    assert_eq!(again, Replayed::Already);
}

#[tokio::test]
async fn a_replay_that_was_interrupted_is_completed_by_the_next() {
    let (_nats, worker, operator) = stand().await;
    // After the record was changed.
    let id = bury(&worker, "mail", "permanent").await;
    put_record(
        &operator,
        id,
        json!({"kind": "mail", "state": "queued", "run": 2, "attempt": 0}),
    )
    .await;
    let letter = dead_letters::show(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    let replayed = dead_letters::replay(&operator.clone().into(), &letter, None)
        .await
        .unwrap();
    assert_eq!(replayed, Replayed::Yes);
    assert_eq!(
        queued(&operator).await.0,
        format!("jobs.durable.{id}.high.2.mail")
    );
    assert_eq!(letters(&operator).await, 0);
    // After the job was queued, too: only the letter is left.
    let again = dead_letters::replay(&operator.clone().into(), &letter, None)
        .await
        .unwrap();
    assert_eq!(again, Replayed::Already);
    assert_eq!(messages(&operator, "JOBS").await, 1);
}

#[tokio::test]
async fn a_letter_without_a_record_is_replayed_all_the_same() {
    let (nats, worker, operator) = stand().await;
    let id = bury(&worker, "mail", "permanent").await;
    let admin = nats.connect_as("admin").await;
    let purge = json!({"filter": format!("jobs.state.{id}")}).to_string();
    let purged = admin.request("$JS.API.STREAM.PURGE.JOBS_STATE", purge.into());
    purged.await.unwrap();
    let letter = dead_letters::show(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    let replays = join_all(
        (0..5).map(async |_| dead_letters::replay(&operator.clone().into(), &letter, None).await),
    )
    .await;
    assert!(replays.iter().all(Result::is_ok), "{replays:?}");
    assert_eq!(messages(&operator, "JOBS").await, 1);
}

#[tokio::test]
async fn a_job_can_be_replayed_with_another_payload() {
    let (_nats, worker, operator) = stand().await;
    let id = bury(&worker, "mail", "permanent").await;
    let letter = dead_letters::show(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    let error = dead_letters::replay(&operator.clone().into(), &letter, Some("{".into()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not JSON"), "{error}");
    let other = Some(r#"{"to":"b"}"#.into());
    dead_letters::replay(&operator.clone().into(), &letter, other)
        .await
        .unwrap();
    let body = queued(&operator).await.2;
    assert_eq!(body["payload"], json!({"to": "b"}));
    assert_eq!(
        (&body["id"], &body["max_attempts"]),
        (&json!(id), &json!(3))
    );
}

#[tokio::test]
async fn a_job_stays_dead_if_the_other_payload_is_too_large() {
    let (_nats, worker, operator) = stand().await;
    let id = bury(&worker, "mail", "permanent").await;
    let letter = dead_letters::show(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    let other = json!("x".repeat(operator.max_payload() - 100)).to_string();
    let error = dead_letters::replay(&operator.clone().into(), &letter, Some(other.into()))
        .await
        .unwrap_err();
    let why = error.downcast_ref::<LeftAsItIs>();
    assert!(
        matches!(why, Some(LeftAsItIs::TooLarge { .. })),
        "{error:#}"
    );
    let record = look_up(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.state, record.run), (JobState::Dead, 1));
    assert_eq!(messages(&operator, "JOBS").await, 0);
    assert_eq!(letters(&operator).await, 1);
}

#[tokio::test]
async fn a_discarded_letter_is_gone_and_its_record_will_be() {
    let (_nats, worker, operator) = stand().await;
    let id = bury(&worker, "mail", "permanent").await;
    let letter = dead_letters::show(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    let record = look_up(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    assert!(!record.is_discarded());
    dead_letters::discard(&operator.clone().into(), &letter)
        .await
        .unwrap();
    // Somebody else was as fast.
    dead_letters::discard(&operator.clone().into(), &letter)
        .await
        .unwrap();
    assert_eq!(letters(&operator).await, 0);
    let record = look_up(&operator.clone().into(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.state, JobState::Dead);
    assert!(record.is_discarded());
    let codes: Vec<_> = record
        .failures
        .iter()
        .map(|mark| &*mark.error.code)
        .collect();
    assert_eq!(codes, [codes::PERMANENT, codes::DISCARDED], "said once");
    assert!(expires(&operator, id).await);
}

/// Whether the record of a job has a time to live.
async fn expires(client: &Client, id: JobId) -> bool {
    let last = json!({"last_by_subj": subjects::record(id)}).to_string();
    let kept = client.request("$JS.API.DIRECT.GET.JOBS_STATE", last.into());
    kept.await
        .unwrap()
        .headers
        .unwrap()
        .get("Nats-TTL")
        .is_some()
}

#[tokio::test]
async fn a_discard_that_stopped_half_way_keeps_the_record_and_is_finished_by_the_next() {
    let (_nats, worker, operator) = stand().await;
    let id = bury(&worker, "mail", "permanent").await;
    let letter = dead_letters::show(&operator.clone().into(), id).await;
    let letter = letter.unwrap().unwrap();
    // A worker may write the record, but not remove the dead letter.
    let refused = dead_letters::discard(&worker.clone().into(), &letter).await;
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(refused.contains("discard it again"), "{refused}");
    let record = look_up(&operator.clone().into(), id).await;
    assert!(record.unwrap().unwrap().is_discarded());
    assert_eq!(letters(&operator).await, 1);
    assert!(
        !expires(&operator, id).await,
        "the record expires before the dead letter"
    );
    let letter = dead_letters::show(&operator.clone().into(), id).await;
    let letter = letter.unwrap().unwrap();
    dead_letters::discard(&operator.clone().into(), &letter)
        .await
        .unwrap();
    assert_eq!(letters(&operator).await, 0);
    assert!(expires(&operator, id).await);
    let record = look_up(&operator.clone().into(), id).await;
    let record = record.unwrap().unwrap();
    let marks = record.failures.iter().filter(|failure| failure.is_mark());
    assert_eq!(marks.count(), 1, "marked once");
}

#[tokio::test]
async fn a_letter_that_the_server_does_not_remove_is_not_said_to_be_discarded() {
    let (nats, worker, operator) = stand().await;
    // Without a record there is nothing else to be stored.
    let id = letter_with(&worker, HeaderMap::new(), None).await;
    let letter = dead_letters::show(&operator.clone().into(), id).await;
    let letter = letter.unwrap().unwrap();
    nats.fail_writes();
    let refused = dead_letters::discard(&operator.clone().into(), &letter)
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("file too large"),
        "{refused:#}"
    );
}
