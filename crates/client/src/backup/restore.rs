//! Restores a backup.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use connection::NatsClient;
use jetstream::{Message, Stream, batch, is_clustered, manage, snapshot};
use serde_json::json;

use super::Progress;
use super::files;
use super::manifest::{LATER_TAIL, Manifest, STATE_TAIL, snapshot_of};
use super::repair::{self, Repaired};

/// The order in which the streams are restored. The queue comes last: whoever submits or takes a job too early
/// finds no queue, instead of a queue without records.
const ORDER: [Stream; 4] = [
    Stream::State,
    Stream::Later,
    Stream::Advisories,
    Stream::Jobs,
];

/// How many messages are stored at a time, and about how many bytes of them.
const AT_A_TIME: (usize, usize) = (500, 2 << 20);

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// How many messages each stream holds now.
    pub messages: Vec<(Stream, u64)>,
    /// How many dead letters were put back because they were replayed or discarded while the backup was made.
    pub dead_letters: u64,
    /// How many records were removed: their jobs were submitted while the backup was made, and are not in it.
    pub removed: u64,
}

/// Reads the manifest of a backup, and compares all its files with it.
///
/// # Errors
/// When the backup is not whole, damaged, or of another format.
pub fn verify(folder: &Path, progress: &(dyn Fn(Progress) + Sync)) -> anyhow::Result<Manifest> {
    let manifest = Manifest::read(folder)?;
    for stream in ORDER {
        let name = snapshot_of(stream);
        files::check(folder, name, &manifest.files[name], &mut |bytes| {
            progress(Progress {
                file: name,
                bytes,
                of: Some(manifest.files[name].bytes),
            });
        })?;
    }
    // The others are small.
    for (name, file) in &manifest.files {
        if !ORDER.iter().any(|stream| snapshot_of(*stream) == name) {
            files::check(folder, name, file, &mut |_| {})?;
        }
    }
    Ok(manifest)
}

/// The streams of a backup that exist on the server.
///
/// # Errors
/// When the server does not answer in time.
pub async fn existing(client: &NatsClient) -> anyhow::Result<Vec<Stream>> {
    let mut found = Vec::new();
    for stream in Stream::ALL {
        if manage::exists(client, stream).await? {
            found.push(stream);
        }
    }
    Ok(found)
}

/// Restores all streams of a backup, which [`verify`] has read, after these streams were deleted. No consumer may run
/// meanwhile.
///
/// # Errors
/// When another stream of the backup exists, the server refuses something, or does not answer in time. A part of the
/// streams may be there then.
///
/// # Panics
/// Never: each stream has its file.
pub async fn restore(
    client: &NatsClient,
    folder: &Path,
    manifest: &Manifest,
    replace: &[Stream],
    progress: &(dyn Fn(Progress) + Sync),
) -> anyhow::Result<Restored> {
    for stream in replace {
        snapshot::delete_stream(client, *stream).await?;
    }
    let there = existing(client).await?;
    let names: Vec<_> = there.iter().map(|stream| stream.name()).collect();
    ensure!(
        there.is_empty(),
        "these streams exist: {}",
        names.join(", ")
    );
    for stream in ORDER {
        restore_stream(client, folder, manifest, stream, progress)
            .await
            .with_context(|| format!("{stream} is not restored"))?;
        match stream {
            Stream::State => store_tail(client, folder, STATE_TAIL).await?,
            Stream::Later => store_tail(client, folder, LATER_TAIL).await?,
            Stream::Jobs | Stream::Advisories => {}
        }
    }
    let Repaired {
        dead_letters,
        removed,
    } = repair::repair(client, folder).await?;
    let mut messages = Vec::new();
    for stream in Stream::ALL {
        let info = manage::stream_info(client, stream).await?;
        messages.push((stream, info.state.messages));
    }
    Ok(Restored {
        messages,
        dead_letters,
        removed,
    })
}

async fn restore_stream(
    client: &NatsClient,
    folder: &Path,
    manifest: &Manifest,
    stream: Stream,
    progress: &(dyn Fn(Progress) + Sync),
) -> anyhow::Result<()> {
    let name = snapshot_of(stream);
    let path = folder.join(name);
    let copy = manifest.stream(stream);
    let mut config = copy.config.clone();
    // A single server refuses more. Consumers set what they are told when they start.
    if !is_clustered(client) {
        config["num_replicas"] = json!(1);
    }
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(&path).with_context(cannot_read)?;
    let restoration = snapshot::restore(client, stream, &config, &copy.state).await?;
    let (mut buffer, mut bytes) = (vec![0; snapshot::CHUNK], 0);
    loop {
        let count = file.read(&mut buffer).with_context(cannot_read)?;
        if count == 0 {
            break;
        }
        let chunk = Bytes::copy_from_slice(&buffer[..count]);
        restoration.send(chunk).await?;
        bytes += count as u64;
        progress(Progress {
            file: name,
            bytes,
            of: Some(manifest.files[name].bytes),
        });
    }
    restoration.finish().await?;
    Ok(())
}

/// Stores what the snapshot of a stream could not have.
async fn store_tail(client: &NatsClient, folder: &Path, name: &str) -> anyhow::Result<()> {
    let mut together = Together::default();
    for line in files::lines(folder, name)? {
        let message = line?.message().with_context(|| name.to_owned())?;
        together.add(message);
        if together.is_full() {
            together.store(client).await?;
        }
    }
    together.store(client).await
}

/// Messages that are stored together, the last of each subject. The server takes no two of a subject.
#[derive(Default)]
struct Together {
    messages: HashMap<String, Message>,
    bytes: usize,
}

impl Together {
    fn add(&mut self, message: Message) {
        self.bytes += message.payload.len();
        self.messages.insert(message.subject.clone(), message);
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= AT_A_TIME.0 || self.bytes >= AT_A_TIME.1
    }

    async fn store(&mut self, client: &NatsClient) -> anyhow::Result<()> {
        let messages: Vec<_> = std::mem::take(self).messages.into_values().collect();
        if messages.is_empty() {
            return Ok(());
        }
        if batch::store(client, messages.clone()).await.is_ok() {
            return Ok(());
        }
        // One of them is wrong: the answer does not say which one.
        for message in messages {
            let subject = message.subject.clone();
            if let Err(error) = batch::store(client, vec![message]).await {
                bail!("{subject} is not stored: {error}");
            }
        }
        Ok(())
    }
}
