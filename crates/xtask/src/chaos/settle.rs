//! Waits until all jobs have ended, and reads what became of them: twice, with a crash in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::NatsClient;
use common::{JobId, JobRecord, subjects};
use jetstream::records::{self, Records};
use jetstream::{Stream, manage};
use tokio::time::sleep;

use super::history::{Event, FinalRecord, History, micros};
use super::stand::Stand;

/// How long jobs may take to end when nothing is broken any more: waits for consumers that are gone, retries, and
/// the watch for jobs that are overdue, on a machine that has other work as well.
const PATIENCE: Duration = Duration::from_mins(4);

/// So long the queues have to be empty, and no more jobs end, until what has not ended is given up.
const NOTHING_LEFT: Duration = Duration::from_secs(10);

/// How long the server may take to answer after a crash.
const ANSWER: Duration = Duration::from_mins(1);

/// The wait between two looks.
const AGAIN: Duration = Duration::from_millis(500);

/// The subjects on which nothing may be left.
const QUEUES: [(Stream, &str); 4] = [
    (Stream::Jobs, "jobs.durable.>"),
    (Stream::Jobs, "jobs.unique.*"),
    (Stream::Later, "jobs.later.*"),
    (Stream::Later, "jobs.due.>"),
];

type Ends = BTreeMap<JobId, FinalRecord>;

/// Waits for the ends, and notes the records, what did not end, and what is left.
pub(super) async fn settle(stand: &Stand, history: &History) -> anyhow::Result<()> {
    let (promised, all) = jobs(&history.events()?);
    let client = NatsClient::from(stand.admin.clone());
    wait(&client, &promised).await;
    let left = emptied(&client).await?;
    let first = read(&client, &all, 1).await?;
    note(history, &first);

    let mut servers = stand.servers.lock().await;
    for number in 0..servers.count() {
        let server = servers.get_mut(number);
        server.kill().await;
        server.start_again().await;
        servers.are_whole(&stand.admin).await;
    }
    drop(servers);
    let second = read(&client, &all, 2).await?;
    note(history, &second);
    for id in all.iter().filter(|id| !second.contains_key(id)) {
        let found = found(&client, *id).await?;
        if !found.is_empty() || promised.contains(id) || first.contains_key(id) {
            history.note(Event::Unfinished { id: *id, found });
        }
    }
    for (subjects, messages) in left {
        history.note(Event::Left {
            subjects: subjects.to_owned(),
            messages,
        });
    }
    Ok(())
}

/// The jobs that have to end, and all that may exist.
fn jobs(events: &[Event]) -> (BTreeSet<JobId>, BTreeSet<JobId>) {
    let (mut promised, mut all) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        match event {
            Event::Submitted(job) => {
                all.insert(job.id);
            }
            Event::Acknowledged { id, .. } | Event::Tick { id, .. } => {
                promised.insert(*id);
            }
            _ => {}
        }
    }
    all.extend(&promised);
    (promised, all)
}

/// Waits until all of these have ended, or nothing is left that could end.
async fn wait(client: &NatsClient, promised: &BTreeSet<JobId>) {
    let since = Instant::now();
    let (mut open, mut changed) = (promised.clone(), Instant::now());
    while !open.is_empty() && since.elapsed() < PATIENCE {
        // The server may be about to start.
        if let Ok(ends) = ends(client, &open, 1).await
            && !ends.is_empty()
        {
            open.retain(|id| !ends.contains_key(id));
            changed = Instant::now();
        }
        if nothing_waits(client).await.is_ok_and(|nothing| nothing) {
            if changed.elapsed() > NOTHING_LEFT {
                return;
            }
        } else {
            changed = Instant::now();
        }
        sleep(AGAIN).await;
    }
}

/// Whether the queues are empty, and no job is marked: one that waits is scheduled again if its message was lost.
async fn nothing_waits(client: &NatsClient) -> anyhow::Result<bool> {
    let left = depth(client).await?;
    let marked = manage::count_subjects(client, Stream::State, subjects::ALL_OVERDUE).await?;
    // One of these subjects is the cursor of the watch.
    Ok(left.is_empty() && marked <= 1)
}

/// Waits until nothing is left in the queues, and returns what is.
async fn emptied(client: &NatsClient) -> anyhow::Result<Vec<(&'static str, u64)>> {
    let since = Instant::now();
    loop {
        let left = depth(client).await;
        match left {
            Ok(left) if left.is_empty() => {
                return Ok(QUEUES.map(|(_, subjects)| (subjects, 0)).into());
            }
            left if since.elapsed() > ANSWER => return left,
            _ => sleep(AGAIN).await,
        }
    }
}

/// The subjects that have messages, and how many.
async fn depth(client: &NatsClient) -> anyhow::Result<Vec<(&'static str, u64)>> {
    let mut left = Vec::new();
    for (stream, subjects) in QUEUES {
        let messages = manage::count_subjects(client, stream, subjects).await?;
        if messages > 0 {
            left.push((subjects, messages));
        }
    }
    Ok(left)
}

/// The final records of these jobs, once the server answers.
async fn read(client: &NatsClient, ids: &BTreeSet<JobId>, read: u32) -> anyhow::Result<Ends> {
    let since = Instant::now();
    loop {
        match ends(client, ids, read).await {
            Ok(ends) => return Ok(ends),
            Err(error) if since.elapsed() > ANSWER => {
                return Err(error).context("cannot read the records of the jobs");
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn ends(client: &NatsClient, ids: &BTreeSet<JobId>, read: u32) -> anyhow::Result<Ends> {
    let mut records = Records::new(client).await?;
    let ids: Vec<_> = ids.iter().copied().collect();
    let mut ends = Ends::new();
    for some in ids.chunks(records::MOST) {
        for (id, found) in records.of(some.iter().copied()).await? {
            if let Some(record) = found.record.filter(|record| record.state.is_final()) {
                ends.insert(id, final_record(&record, read));
            }
        }
    }
    Ok(ends)
}

/// What there is of a job that has not ended.
async fn found(client: &NatsClient, id: JobId) -> anyhow::Result<String> {
    let record = client::look_up(client, id).await;
    let record = record.with_context(|| format!("cannot look up {}", subjects::record(id)))?;
    Ok(record.map_or_else(String::new, |record| record.state.to_string()))
}

fn final_record(record: &JobRecord, read: u32) -> FinalRecord {
    FinalRecord {
        read,
        id: record.id,
        at: micros(record.at),
        state: record.state,
        attempt: record.attempt,
        run: record.run,
        reason: record.reason,
    }
}

fn note(history: &History, ends: &Ends) {
    for record in ends.values() {
        history.note(Event::Record(record.clone()));
    }
}
