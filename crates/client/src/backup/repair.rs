//! Makes restored streams agree, which were copied one after another.

use std::path::Path;

use anyhow::Context as _;
use common::{JobId, JobState, JobSubject, subjects};
use connection::NatsClient;
use jetstream::job_messages::{self, Place, schedules_run};
use jetstream::{Message, Stream, batch, direct_get, manage, records};
use tracing::debug;

use super::files;
use super::manifest::LETTERS;
use crate::dead_letters::{self, record_of};

/// How many records are read at a time, and how many bytes of them.
const PAGE: (usize, usize) = (500, 4 << 20);

/// What was changed.
#[derive(Debug, Default)]
pub(super) struct Repaired {
    pub(super) dead_letters: u64,
    pub(super) removed: u64,
}

/// Puts dead letters back whose jobs are nowhere else, and removes the records of jobs that are in no stream.
///
/// A record says that its job waits or runs, and the job is in neither `JOBS` nor `JOBS_LATER`: then it was submitted
/// after `JOBS` was copied, or it is a dead letter that was replayed then. Nobody would ever change such a record.
pub(super) async fn repair(client: &NatsClient, folder: &Path) -> anyhow::Result<Repaired> {
    let mut repaired = Repaired::default();
    for line in files::lines(folder, LETTERS)? {
        let letter = line?.message().context(LETTERS)?;
        let (id, _) = subjects::parse_dead(&letter.subject)
            .with_context(|| format!("{LETTERS}: {} is no dead letter", letter.subject))?;
        if put_back(client, id, letter).await? {
            repaired.dead_letters += 1;
        }
    }
    let mut from = 1;
    loop {
        let (most, most_bytes) = PAGE;
        let filter = subjects::ALL_STATES;
        let page =
            direct_get::batch_to_the_end(client, Stream::State, filter, from, most, most_bytes);
        let page = page.await?;
        let Some(last) = page.last() else {
            return Ok(repaired);
        };
        from = last.sequence + 1;
        for stored in page {
            let Some(id) = subjects::parse_record(&stored.subject) else {
                continue;
            };
            // What is no record stays as it is: the next record replaces it.
            let record = records::decode(id, Some(&stored.headers), &stored.payload);
            let Some(record) = record.ok().filter(|record| !record.state.is_final()) else {
                continue;
            };
            if has_message(client, id, record.run).await? {
                continue;
            }
            if is_dead(client, id).await? {
                repaired.dead_letters += 1;
                continue;
            }
            debug!(job.id = %id, "removed a record: its job is not in the backup");
            manage::delete_message(client, Stream::State, stored.sequence).await?;
            repaired.removed += 1;
        }
    }
}

/// Stores a dead letter that was removed while the backup was made, unless its job waits, runs or has ended.
async fn put_back(client: &NatsClient, id: JobId, letter: Message) -> anyhow::Result<bool> {
    let record = records::one(client, id)
        .await?
        .and_then(|stored| stored.record);
    let run = match record {
        Some(record) if record.state.is_final() => return Ok(false),
        Some(record) => record.run,
        // That of a replay.
        None => {
            let run = letter.headers.get(subjects::RUN_HEADER);
            let run = run.and_then(|run| run.as_str().parse().ok());
            run.unwrap_or(1_u32).saturating_add(1)
        }
    };
    if has_message(client, id, run).await? {
        return Ok(false);
    }
    let stored = batch::store(client, vec![letter]).await;
    stored.with_context(|| format!("the dead letter of {id} is not stored"))?;
    is_dead(client, id).await
}

/// Whether a message of this run of the job, or of a later one, is in a stream. One of an earlier run was settled, and
/// is not purged yet.
async fn has_message(client: &NatsClient, id: JobId, run: u32) -> anyhow::Result<bool> {
    for place in Place::ALL {
        let Some(message) = job_messages::read(client, id, place).await? else {
            continue;
        };
        let found = match place {
            Place::Later => schedules_run(&message, run),
            Place::Due | Place::Queue => {
                JobSubject::parse(&message.subject).is_some_and(|subject| subject.run >= run)
            }
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Has the record of a job say that it is dead, if it has a dead letter.
async fn is_dead(client: &NatsClient, id: JobId) -> anyhow::Result<bool> {
    let Some(letter) = dead_letters::show(client, id).await? else {
        return Ok(false);
    };
    let (mut record, expected) = record_of(client, &letter).await?;
    record.state = JobState::Dead;
    record.reason = letter.reason;
    record.consumer = None;
    record.next_at = None;
    let record = serde_json::to_vec(&record)?.into();
    let stored = batch::store(client, vec![records::message(id, record, expected, None)]).await;
    stored.with_context(|| format!("the record of {id} is not stored"))?;
    Ok(true)
}
