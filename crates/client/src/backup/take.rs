//! Makes a backup.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use async_nats::HeaderMap;
use common::{JobSubject, Timestamp, subjects};
use connection::NatsClient;
use jetstream::headers::{SCHEDULE, SCHEDULE_TARGET, TTL, is_copy, schedule_at};
use jetstream::{Message, StoredMessage, Stream, direct_get, is_clustered, manage, snapshot};

use super::Progress;
use super::files::{self, Line, Writing};
use super::manifest::{LATER_TAIL, LETTERS, Manifest, STATE_TAIL, StreamCopy, snapshot_of};

/// How many messages are read at a time, and how many bytes of them.
const PAGE: (usize, usize) = (1000, 4 << 20);

/// The order in which the streams are copied: a job goes from `JOBS` to `JOBS_LATER` to `JOBS_STATE`, and is stored
/// in the next one before it is removed from the last one. So what was copied too late for one stream is in the next.
const ORDER: [Stream; 4] = [
    Stream::Jobs,
    Stream::Advisories,
    Stream::Later,
    Stream::State,
];

/// Backs all streams up in a folder, which must be empty or not exist. Services may run meanwhile.
///
/// If this fails or is dropped, the folder has no manifest, and nothing can be restored from it.
///
/// # Errors
/// When the folder is not empty, a file cannot be written, or the server does not answer in time.
///
/// # Panics
/// Never: each stream has its file.
pub async fn take(
    client: &NatsClient,
    folder: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> anyhow::Result<Manifest> {
    let time = Timestamp::now();
    let begun = manage::stream_info(client, Stream::Jobs).await;
    let begun = begun.context("there are no streams that could be backed up")?;
    files::make_folder(folder)?;
    let mut manifest = Manifest::new(time, begun.now);
    let letters = Letters::read(client, folder).await?;
    for stream in ORDER {
        let (copy, last) = copy(client, folder, stream, &mut manifest, progress).await?;
        manifest.streams.insert(stream.name().to_owned(), copy);
        let tail = match stream {
            Stream::Later => LATER_TAIL,
            Stream::State => STATE_TAIL,
            // Their messages are not moved to the end of the stream.
            Stream::Jobs | Stream::Advisories => continue,
        };
        let mut file = Writing::new(folder, tail)?;
        copy_tail(client, stream, last + 1, &mut file).await?;
        manifest.files.insert(tail.to_owned(), file.finish()?);
    }
    let ended = manage::stream_info(client, Stream::State).await?;
    manifest.server_time_at_end = ended.now;
    let letters = letters.finish(client, folder).await?;
    manifest.files.insert(LETTERS.to_owned(), letters);
    files::write_manifest(folder, &manifest)?;
    Ok(manifest)
}

/// Writes the snapshot of a stream. Returns what it holds, and the sequence of its last message.
async fn copy(
    client: &NatsClient,
    folder: &Path,
    stream: Stream,
    manifest: &mut Manifest,
    progress: &(dyn Fn(Progress) + Sync),
) -> anyhow::Result<(StreamCopy, u64)> {
    let name = snapshot_of(stream);
    let mut file = Writing::new(folder, name)?;
    let mut snapshot = snapshot::begin(client, stream).await?;
    while let Some(chunk) = snapshot.next().await? {
        file.write(&chunk)?;
        progress(Progress {
            file: name,
            bytes: file.bytes,
            of: None,
        });
    }
    manifest.files.insert(name.to_owned(), file.finish()?);
    let (config, state) = (snapshot.config, snapshot.state);
    let number = |field: &str| {
        let number = state[field].as_u64();
        number.with_context(|| format!("the server does not say `{field}` of {stream}"))
    };
    let (messages, bytes, last) = (number("messages")?, number("bytes")?, number("last_seq")?);
    let copy = StreamCopy {
        messages,
        bytes,
        config,
        state,
    };
    Ok((copy, last))
}

/// Writes what was stored since a snapshot began, up to the end of the stream.
async fn copy_tail(
    client: &NatsClient,
    stream: Stream,
    mut from: u64,
    file: &mut Writing,
) -> anyhow::Result<()> {
    // In a cluster, a follower may not have yet what another one had moved to the end. The leader had it.
    let mut at_least = None;
    loop {
        let (most, most_bytes) = PAGE;
        let page = direct_get::batch(client, stream, ">", from, most, most_bytes).await?;
        let is_end = page.last().is_none_or(|last| last.pending_after() == 0);
        for stored in page {
            from = stored.sequence + 1;
            write(file, stored)?;
        }
        if !is_end {
            continue;
        }
        let last = match at_least {
            None if is_clustered(client) => {
                manage::stream_info(client, stream)
                    .await?
                    .state
                    .last_sequence
            }
            None => 0,
            Some(last) => last,
        };
        at_least = Some(last);
        if from > last || direct_get::next(client, stream, ">", from).await?.is_none() {
            return Ok(());
        }
    }
}

/// Writes the message that stores the same in a restored stream, if there is to be one.
fn write(file: &mut Writing, stored: StoredMessage) -> anyhow::Result<()> {
    let sequence = stored.sequence;
    match restorable(stored) {
        Some(message) => file.write_line(&Line::of(sequence, &message)),
        None => Ok(()),
    }
}

/// The message that stores the same in a restored stream; `None` for what need not be there.
fn restorable(stored: StoredMessage) -> Option<Message> {
    // Somebody has stored a copy of another message in its place; without its headers it would look genuine.
    if is_copy(&stored.headers) {
        return None;
    }
    // Those of the server would have a meaning for it.
    let mut headers = HeaderMap::new();
    for (name, values) in stored.headers.iter() {
        let text: &str = name.as_ref();
        let keep = match text {
            SCHEDULE | SCHEDULE_TARGET => subjects::parse_later(&stored.subject).is_some(),
            // `JOBS_LATER` knows none.
            TTL => is_of_state(&stored.subject),
            _ => !text.to_ascii_lowercase().starts_with("nats-"),
        };
        for value in values.iter().filter(|_| keep) {
            headers.append(name.clone(), value.clone());
        }
    }
    let mut subject = stored.subject;
    if let Some(due) = JobSubject::parse(&subject).filter(|_| subject.starts_with(subjects::DUE)) {
        // Only the server may publish there; it does so at once.
        headers.insert(SCHEDULE, schedule_at(stored.at));
        headers.insert(SCHEDULE_TARGET, subject);
        subject = subjects::later(due.id);
    } else if subject.starts_with("jobs.tick.") || subject.starts_with(subjects::DUE) {
        // Consumers make the timers of schedules again. The others are no jobs.
        return None;
    } else if let Some(seconds) = subjects::kept_for(&subject) {
        // Records on these subjects are in the order of their times.
        subject = subjects::state(subjects::parse_record(&subject)?);
        headers.insert(TTL, format!("{seconds}s"));
    }
    Some(Message {
        subject,
        headers,
        payload: stored.payload,
    })
}

/// Whether a message with this subject is in `JOBS_STATE`.
fn is_of_state(subject: &str) -> bool {
    let others = ["jobs.later.", "jobs.due.", "jobs.tick."];
    !others.iter().any(|other| subject.starts_with(other))
}

/// The dead letters from before the first snapshot. A dead letter that is replayed while the backup is made goes from
/// the last stream that is copied to the first one, so neither copy may have it.
struct Letters {
    /// A file that is not part of the backup.
    name: &'static str,
}

impl Letters {
    async fn read(client: &NatsClient, folder: &Path) -> anyhow::Result<Self> {
        let name = "dead-letters.part";
        let mut file = Writing::new(folder, name)?;
        each_letter(client, |letter| write(&mut file, letter)).await?;
        file.finish()?;
        Ok(Self { name })
    }

    /// Keeps those that are there no more: all others are in the copy of their stream.
    async fn finish(self, client: &NatsClient, folder: &Path) -> anyhow::Result<super::FileCopy> {
        let mut there = HashSet::new();
        each_letter(client, |letter| {
            there.insert(letter.sequence);
            Ok(())
        })
        .await?;
        let mut file = Writing::new(folder, LETTERS)?;
        for line in files::lines(folder, self.name)? {
            let line = line?;
            if !there.contains(&line.sequence) {
                file.write_line(&line)?;
            }
        }
        fs::remove_file(folder.join(self.name))?;
        file.finish()
    }
}

/// Hands over all dead letters, the oldest first.
async fn each_letter(
    client: &NatsClient,
    mut take: impl FnMut(StoredMessage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (most, most_bytes) = PAGE;
    let filter = subjects::ALL_DEAD;
    let mut from = 1;
    loop {
        let page =
            direct_get::batch_to_the_end(client, Stream::State, filter, from, most, most_bytes);
        let page = page.await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        from = last.sequence + 1;
        page.into_iter().try_for_each(&mut take)?;
    }
}
