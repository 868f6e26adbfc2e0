//! Lists of jobs.

use std::collections::HashSet;

use async_nats::{Client, HeaderMap};
use client::{Cursor, Filter, Listed, Page, list};
use common::{JobId, JobState, Timestamp, subjects};
use serde_json::json;

use crate::support::{bury, job, lane, put, put_all, put_record, queue, submitter};

async fn page(client: &Client, filter: &Filter, cursor: Option<Cursor>, most: usize) -> Page {
    list(&client.clone().into(), filter, cursor, most)
        .await
        .unwrap()
}

/// All pages of a list, one after the other, each cursor by its text.
async fn all(client: &Client, filter: &Filter, most: usize) -> Vec<Listed> {
    let (mut jobs, mut cursor) = (Vec::new(), None);
    loop {
        let page = page(client, filter, cursor, most).await;
        assert!(page.jobs.len() <= most);
        jobs.extend(page.jobs);
        let Some(next) = page.next else { return jobs };
        cursor = Some(next.to_string().parse().unwrap());
    }
}

fn ids(jobs: &[Listed]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn in_state(state: JobState) -> Filter {
    Filter {
        state: Some(state),
        ..Filter::default()
    }
}

fn of_kind(kind: &str) -> Filter {
    Filter {
        kind: Some(kind.parse().unwrap()),
        ..Filter::default()
    }
}

/// The record of a job that has ended.
fn ended(id: JobId, kind: &str) -> (String, String) {
    let record = json!({
        "id": id, "kind": kind, "state": "succeeded", "at": "2026-01-31T09:30:00Z", "run": 1,
        "attempt": 1,
    });
    (subjects::state(id), record.to_string())
}

/// A gap of so many sequences in the stream of records.
async fn gap(worker: &Client, width: usize) {
    let id = JobId::generate();
    put_all(worker, vec![ended(id, "gap"); width]).await;
}

#[tokio::test]
async fn jobs_of_all_streams_are_listed_newest_first_and_each_once() {
    let nats = lane().await;
    let (worker, gateway) = (
        nats.connect_as("worker").await,
        nats.connect_as("gateway").await,
    );
    let none = page(&gateway, &Filter::default(), None, 10).await;
    assert!(none.jobs.is_empty() && none.next.is_none());
    let submitter = submitter(&gateway);
    let mut expected = Vec::new();
    for number in 0..100 {
        let kind = if number % 3 == 0 { "mail.send" } else { "echo" };
        let id = match number % 4 {
            0 => {
                let job = job(&format!(r#"{{"kind":"{kind}"}}"#));
                submitter.submit(&job).await.unwrap();
                job.id
            }
            1 => {
                let job = job(&format!(
                    r#"{{"kind":"{kind}","run_at":"2200-01-31T09:30:00Z"}}"#
                ));
                submitter.submit(&job).await.unwrap();
                job.id
            }
            // One that ran, and whose message is still there.
            2 => {
                let job = job(&format!(r#"{{"kind":"{kind}"}}"#));
                submitter.submit(&job).await.unwrap();
                let fields = json!({"kind": kind, "state": "succeeded", "duration_ms": 2.5});
                put_record(&worker, job.id, fields).await;
                job.id
            }
            _ => bury(&worker, kind, "permanent").await,
        };
        expected.insert(0, id);
    }
    for most in [1, 7, 100, 1000] {
        let listed = ids(&all(&gateway, &Filter::default(), most).await);
        assert_eq!(listed, expected, "pages of {most}");
    }
    for (state, remainder) in [
        (JobState::Queued, 0),
        (JobState::Scheduled, 1),
        (JobState::Succeeded, 2),
        (JobState::Dead, 3),
    ] {
        let wanted: Vec<_> = expected
            .iter()
            .rev()
            .enumerate()
            .filter(|(number, _)| number % 4 == remainder)
            .map(|(_, id)| *id)
            .collect();
        let listed = all(&gateway, &in_state(state), 7).await;
        assert!(listed.iter().all(|job| job.state == state));
        let listed: Vec<_> = ids(&listed).into_iter().rev().collect();
        assert_eq!(listed, wanted, "{state}");
        let both = Filter {
            state: Some(state),
            ..of_kind("mail.send")
        };
        let mails = all(&gateway, &both, 3).await;
        assert!((8..=9).contains(&mails.len()), "{state}: {}", mails.len());
    }
    assert!(
        all(&gateway, &in_state(JobState::Running), 5)
            .await
            .is_empty()
    );
    let mails = all(&gateway, &of_kind("mail.send"), 5).await;
    assert_eq!(mails.len(), 34);
    let dead = page(&gateway, &in_state(JobState::Dead), None, 1).await;
    let dead = &dead.jobs[0];
    assert_eq!(dead.error.as_ref().unwrap().message, "no such address");
    assert_eq!(dead.attempt, 1);
    let scheduled = page(&gateway, &in_state(JobState::Scheduled), None, 1).await;
    assert!(
        scheduled.jobs[0]
            .next_at
            .unwrap()
            .to_string()
            .starts_with("2200")
    );
}

#[tokio::test]
async fn a_job_that_was_given_back_or_replayed_is_queued_and_one_that_retries_is_not_scheduled() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let given_back = job(r#"{"kind":"echo"}"#);
    submitter(&gateway).submit(&given_back).await.unwrap();
    put_record(&worker, given_back.id, json!({"state": "queued"})).await;
    let replayed = bury(&worker, "mail", "permanent").await;
    let letter = client::dead_letters::show(&gateway.clone().into(), replayed)
        .await
        .unwrap();
    client::dead_letters::replay(&gateway.clone().into(), &letter.unwrap(), None)
        .await
        .unwrap();
    let retrying = JobId::generate();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Schedule", "@at 2200-01-31T09:30:00Z");
    let target = format!("jobs.due.{retrying}.normal.1.echo");
    headers.insert("Nats-Schedule-Target", target);
    put(&worker, subjects::later(retrying), headers, "{}".to_owned()).await;
    put_record(&worker, retrying, json!({"state": "retrying"})).await;

    let queued = all(&gateway, &in_state(JobState::Queued), 1).await;
    assert_eq!(ids(&queued), [replayed, given_back.id]);
    assert!(
        all(&gateway, &in_state(JobState::Scheduled), 9)
            .await
            .is_empty()
    );
    assert!(all(&gateway, &in_state(JobState::Dead), 9).await.is_empty());
    let retries = all(&gateway, &in_state(JobState::Retrying), 9).await;
    assert_eq!(ids(&retries), [retrying]);
    let everything = all(&gateway, &Filter::default(), 2).await;
    assert_eq!(ids(&everything), [retrying, replayed, given_back.id]);
}

#[tokio::test]
async fn few_jobs_far_apart_are_found_and_many_close_together_are_not_skipped() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let mut expected = Vec::new();
    for width in [0, 1, 70, 3000, 9, 20_000, 300] {
        gap(&worker, width).await;
        for _ in 0..3 {
            let id = JobId::generate();
            let fields = json!({"kind": "rare", "state": "succeeded"});
            put_record(&worker, id, fields).await;
            expected.insert(0, id);
        }
    }
    for most in [1, 4, 50] {
        let listed = all(&gateway, &of_kind("rare"), most).await;
        assert_eq!(ids(&listed), expected, "pages of {most}");
    }
    // A wide window, opened over a gap, that reaches into a crowd.
    let mut crowd = queue(&gateway, "crowd", 3000).await;
    queue(&gateway, "others", 4000).await;
    crowd.extend(queue(&gateway, "crowd", 1).await);
    crowd.reverse();
    let listed = all(&gateway, &of_kind("crowd"), 250).await;
    assert_eq!(listed.len(), crowd.len());
    assert!(ids(&listed) == crowd);
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_messages_and_says_where_it_goes_on() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let rare = JobId::generate();
    put_record(&worker, rare, json!({"kind": "rare", "state": "succeeded"})).await;
    let others = (0..6000).map(|_| ended(JobId::generate(), "echo"));
    put_all(&worker, others.collect()).await;
    let first = page(&gateway, &of_kind("rare"), None, 10).await;
    assert!(first.jobs.is_empty());
    assert!(
        (5000..5512).contains(&first.looked_at),
        "{}",
        first.looked_at
    );
    let second = page(&gateway, &of_kind("rare"), first.next, 10).await;
    assert_eq!(ids(&second.jobs), [rare]);
    assert!(second.next.is_none());
}

#[tokio::test]
async fn jobs_that_do_not_change_are_shown_once_while_others_move() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let (mut still, mut moving) = (HashSet::new(), Vec::new());
    for (number, id) in queue(&gateway, "echo", 300).await.into_iter().enumerate() {
        if number % 2 == 0 {
            still.insert(id);
        } else {
            moving.push(id);
        }
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = page(&gateway, &Filter::default(), cursor, 20).await;
        let on_page: HashSet<_> = ids(&page.jobs).into_iter().collect();
        assert_eq!(on_page.len(), page.jobs.len(), "none twice on a page");
        seen.extend(ids(&page.jobs));
        // The oldest have ended meanwhile: none was shown yet, and none may be missed.
        for id in moving.drain(..moving.len().min(5)) {
            put_record(&worker, id, json!({"state": "succeeded"})).await;
        }
        // More come, which belong at the top of another list.
        queue(&gateway, "echo", 1).await;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
    let seen: HashSet<_> = seen.into_iter().collect();
    assert_eq!(seen.len(), 300, "no job twice, and none missed");
    assert!(still.is_subset(&seen));
}

#[tokio::test]
async fn what_comes_after_the_first_page_is_not_on_the_second() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let earlier = queue(&gateway, "echo", 3).await;
    let filter = Filter::default();
    // Of the records nothing is shown on it: there are none yet.
    let first = page(&gateway, &filter, None, 1).await;
    assert_eq!(ids(&first.jobs), [earlier[2]]);
    put_all(&worker, vec![ended(JobId::generate(), "echo")]).await;
    let second = page(&gateway, &filter, first.next, 10).await;
    assert_eq!(ids(&second.jobs), [earlier[1], earlier[0]]);
}

#[tokio::test]
async fn jobs_are_found_by_a_pattern_of_kinds_in_every_state() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let mut expected = Vec::new();
    for kind in ["mail.send", "mail.read", "mail", "mail.send.now", "report"] {
        let wanted = kind.split('.').count() == 2;
        let queued = queue(&gateway, kind, 1).await[0];
        let dead = bury(&worker, kind, "permanent").await;
        let done = JobId::generate();
        put_record(&worker, done, json!({"kind": kind, "state": "succeeded"})).await;
        let later = job(&json!({"kind": kind, "run_at": "2200-01-31T09:30:00Z"}).to_string());
        submitter(&gateway).submit(&later).await.unwrap();
        if wanted {
            expected.extend([queued, dead, done, later.id]);
        }
    }
    let found = ids(&all(&gateway, &of_kind("mail.*"), 3).await);
    let expected: HashSet<_> = expected.into_iter().collect();
    assert_eq!(found.len(), 8);
    assert_eq!(found.into_iter().collect::<HashSet<_>>(), expected);
    for state in [
        JobState::Queued,
        JobState::Scheduled,
        JobState::Dead,
        JobState::Succeeded,
    ] {
        let filter = Filter {
            state: Some(state),
            ..of_kind("mail.*")
        };
        assert_eq!(all(&gateway, &filter, 1).await.len(), 2, "{state}");
    }
}

#[tokio::test]
async fn jobs_are_found_by_the_time_at_which_their_state_began() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let before = queue(&gateway, "mail", 3).await;
    let old = JobId::generate();
    put_all(&worker, vec![ended(old, "echo")]).await;
    let newest = page(&gateway, &Filter::default(), None, 10).await;
    assert_eq!(newest.jobs.len(), 4);
    // The queued jobs were stored together, by the clock of the server.
    let stored = newest
        .jobs
        .iter()
        .find(|job| job.id == before[0])
        .unwrap()
        .at;
    let range = |since: Option<Timestamp>, until: Option<Timestamp>| Filter {
        since,
        until,
        ..Filter::default()
    };
    let found = async |since, until| ids(&all(&gateway, &range(since, until), 2).await);
    assert_eq!(found(None, Some(stored)).await, [old]);
    assert_eq!(found(Some(stored), None).await.len(), 3);
    let after = stored.shifted(600_000);
    assert_eq!(found(Some(after), None).await, []);
    assert_eq!(found(None, Some(after)).await.len(), 4);
    assert_eq!(found(Some(stored), Some(stored)).await, []);
    // A list that begins after its range reads nothing more.
    for _ in 0..6 {
        queue(&gateway, "mail", 1000).await;
    }
    let only = page(&gateway, &range(Some(after), None), None, 10).await;
    assert!(only.next.is_none());
    assert_eq!(only.looked_at, 0);
}

#[tokio::test]
async fn a_list_begins_at_the_end_of_its_time_range() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    put_all(&worker, vec![ended(JobId::generate(), "echo"); 3]).await;
    // Of all that is stored, nothing was stored before the end of this range and the minute after it.
    let until = Timestamp::now().shifted(-120_000);
    let filter = Filter {
        until: Some(until),
        ..Filter::default()
    };
    let found = page(&worker, &filter, None, 10).await;
    assert_eq!((found.jobs.len(), found.looked_at), (0, 0));
    assert!(found.next.is_none());
}

#[tokio::test]
async fn jobs_are_found_by_a_piece_of_their_payload_or_of_an_error_in_every_state() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let submit = async |payload: &str, more: serde_json::Value| {
        let mut message = json!({"kind": "mail.send", "payload": {"to": payload}});
        for (field, value) in more.as_object().into_iter().flatten() {
            message[field] = value.clone();
        }
        let job = job(&message.to_string());
        submitter(&gateway).submit(&job).await.unwrap();
        job.id
    };
    let failed = json!([{"attempt": 1, "at": "2026-01-31T09:30:00Z",
        "error": {"code": "transient", "message": "no such address in Zürich"}}]);
    submit("basel", json!({})).await;
    let queued = submit("zürich", json!({})).await;
    let later = submit("zürich", json!({"run_at": "2200-01-31T09:30:00Z"})).await;
    // Their payloads are in their messages, and their errors in their records.
    let running = submit("Zürich 1", json!({})).await;
    put_record(
        &worker,
        running,
        json!({"kind": "mail.send", "state": "running"}),
    )
    .await;
    let retrying = submit("bern", json!({})).await;
    let fields = json!({"kind": "mail.send", "state": "retrying", "failures": failed});
    put_record(&worker, retrying, fields).await;
    let both = submit("zürich", json!({})).await;
    put_record(
        &worker,
        both,
        json!({"kind": "mail.send", "state": "running", "failures": failed}),
    )
    .await;
    let done = JobId::generate();
    let kept = json!({"kind": "mail.send", "payload": ["zürich"]});
    put_record(
        &worker,
        done,
        json!({"kind": "mail.send", "state": "succeeded", "job": kept}),
    )
    .await;
    let other = json!({"kind": "mail.send", "state": "succeeded", "result": "zürich"});
    put_record(&worker, JobId::generate(), other).await;
    let dead = JobId::generate();
    test_support::bury(&worker, dead, "mail.send", "permanent", "not in Zürich").await;

    let with_text = |state| Filter {
        state,
        text: Some("ZÜRICH".parse().unwrap()),
        ..Filter::default()
    };
    for most in [1, 3, 100] {
        let found = ids(&all(&gateway, &with_text(None), most).await);
        let expected = [queued, later, running, retrying, both, done, dead];
        assert_eq!(found.len(), expected.len(), "each once, pages of {most}");
        assert_eq!(
            found.into_iter().collect::<HashSet<_>>(),
            expected.into_iter().collect::<HashSet<_>>()
        );
    }
    for (state, expected) in [
        (JobState::Queued, &[queued][..]),
        (JobState::Scheduled, &[later]),
        (JobState::Running, &[both, running]),
        (JobState::Retrying, &[retrying]),
        (JobState::Succeeded, &[done]),
        (JobState::Dead, &[dead]),
    ] {
        let found = ids(&all(&gateway, &with_text(Some(state)), 5).await);
        assert_eq!(found, expected, "{state}");
    }
}

#[tokio::test]
async fn a_kind_is_known_if_a_job_has_it_or_a_consumer_has_served_it() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let operator = nats.connect_as("operator").await.into();
    let known = async |kind: &str| {
        client::is_known_kind(&operator, &kind.parse().unwrap())
            .await
            .unwrap()
    };
    for kind in ["mail.send", "mail.*", ">"] {
        assert!(!known(kind).await, "{kind}");
    }
    queue(&nats.connect_as("gateway").await, "mail.send", 1).await;
    bury(&worker, "report.old", "permanent").await;
    let topology = client::Topology::default();
    let worker = worker.into();
    topology
        .ensure_consumer(
            &worker,
            client::Stream::Jobs,
            &"echo".parse().unwrap(),
            None,
        )
        .await
        .unwrap();
    for kind in ["mail.send", "mail.*", "report.*", "echo", ">"] {
        assert!(known(kind).await, "{kind}");
    }
    for kind in ["mail", "mail.read", "*.*.*", "echo.*"] {
        assert!(!known(kind).await, "{kind}");
    }
}
