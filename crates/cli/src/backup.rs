//! Backs all jobs up, and restores them.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::bail;
use bootstrap::Nats;
use client::Stream;
use client::backup::{self, Manifest, Progress};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::command::backup::Restore;
use crate::confirm::{Answer, ask};
use crate::interrupt::until;
use crate::print::{Printer, counted, note, print, table};

/// Backs all streams up into a folder.
pub(crate) async fn back_up(nats: &Nats, out: Printer, folder: &Path) -> anyhow::Result<bool> {
    let bar = Bar::new();
    let taken = backup::take(&nats.client, folder, &|progress| bar.show(progress)).await;
    bar.clear();
    let manifest = taken?;
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    let json = json!({
        "folder": folder, "server_time": manifest.server_time, "bytes": bytes, "messages": messages(&manifest),
    });
    out.either(&json, || {
        let mut lines = described(&manifest);
        lines.push(format!(
            "{} in {}; all jobs from before {} are in it",
            HumanBytes(bytes),
            folder.display(),
            manifest.server_time
        ));
        lines.join("\n")
    })?;
    Ok(true)
}

/// Checks a backup and restores it, after the streams that exist were deleted if that is wanted and confirmed.
pub(crate) async fn restore(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    restore: &Restore,
) -> anyhow::Result<bool> {
    let (client, folder) = (&nats.client, restore.folder.as_path());
    let bar = Bar::new();
    let verified = backup::verify(folder, &|progress| bar.show(progress));
    bar.clear();
    let manifest = verified?;
    let there = backup::existing(client).await?;
    if restore.dry_run {
        return rehearse(out, &manifest, &there);
    }
    if !there.is_empty() && !restore.replace {
        bail!(
            "{} on the server: stop all consumers, then use --replace to delete what is there and restore the backup, \
             or restore it to another server",
            exist(&there)
        );
    }
    if restore.replace && !restore.yes {
        let asking = ask("delete all jobs, and", there.len() as u64, "stream");
        match stop.run_until_cancelled(asking).await.transpose()? {
            Some(Answer::Yes | Answer::NothingMatches) => {}
            Some(Answer::No) | None => {
                note("nothing was changed");
                return Ok(false);
            }
        }
    }
    let show = |progress| bar.show(progress);
    let restoring = backup::restore(client, folder, &manifest, &there, &show);
    let restoring = async {
        let restored = restoring.await;
        bar.clear();
        let restored = restored.map_err(|error| {
            error.context("not everything is restored: use --replace to begin again")
        })?;
        report(out, &restored)
    };
    let done = Box::pin(until(stop, restoring)).await;
    if stop.is_cancelled() {
        bar.clear();
        note("stopped: not everything is restored; use --replace to begin again");
    }
    done
}

/// Says what would be restored and deleted.
fn rehearse(out: Printer, manifest: &Manifest, there: &[Stream]) -> anyhow::Result<bool> {
    let names: Vec<_> = there.iter().map(|stream| stream.name()).collect();
    let json = json!({
        "server_time": manifest.server_time, "messages": messages(manifest), "delete": names,
    });
    out.either(&json, || {
        let mut lines = described(manifest);
        lines.push(format!(
            "the backup of {} is whole and would be restored",
            manifest.server_time
        ));
        if !there.is_empty() {
            lines.push(format!(
                "{}: with --replace, they would be deleted",
                exist(there)
            ));
        }
        lines.join("\n")
    })?;
    Ok(true)
}

fn exist(there: &[Stream]) -> String {
    let names: Vec<_> = there.iter().map(|stream| stream.name()).collect();
    let verb = if names.len() == 1 { "exists" } else { "exist" };
    format!("{} {verb}", names.join(", "))
}

fn messages(manifest: &Manifest) -> Value {
    let each = manifest.streams.iter();
    let each = each.map(|(name, stream)| (name.clone(), json!(stream.messages)));
    Value::Object(each.collect::<Map<_, _>>())
}

fn described(manifest: &Manifest) -> Vec<String> {
    let rows: Vec<_> = manifest
        .streams
        .iter()
        .map(|(name, stream)| {
            let size = HumanBytes(stream.bytes).to_string();
            [name.clone(), stream.messages.to_string(), size]
        })
        .collect();
    table(["STREAM", "MESSAGES", "SIZE"], &rows)
}

fn report(out: Printer, restored: &backup::Restored) -> anyhow::Result<bool> {
    let each = restored.messages.iter();
    let each = each.map(|(stream, messages)| (stream.name().to_owned(), json!(messages)));
    let json = json!({
        "messages": each.collect::<Map<_, _>>(),
        "dead_letters_put_back": restored.dead_letters,
        "records_removed": restored.removed,
    });
    out.either(&json, || {
        let rows: Vec<_> = restored
            .messages
            .iter()
            .map(|(stream, messages)| [stream.name().to_owned(), messages.to_string()])
            .collect();
        let mut lines = table(["STREAM", "MESSAGES"], &rows);
        if restored.dead_letters > 0 {
            lines.push(format!(
                "{} put back that had been replayed or discarded during the backup",
                counted(restored.dead_letters, "dead letter")
            ));
        }
        if restored.removed > 0 {
            lines.push(format!(
                "{} removed of jobs that had been submitted during the backup",
                counted(restored.removed, "record")
            ));
        }
        lines.join("\n")
    })?;
    if !out.json {
        print("consumers may start now")?;
    }
    Ok(true)
}

/// Shows on a terminal how far a file is.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(ProgressBar::no_length))
    }

    fn show(&self, progress: Progress) {
        let Some(bar) = &self.0 else { return };
        let template = if progress.of.is_some() {
            "{msg:24} {bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}"
        } else {
            "{msg:24} {bytes}, {binary_bytes_per_sec}"
        };
        if bar.message() != progress.file {
            bar.reset();
            bar.set_style(ProgressStyle::with_template(template).expect("the template is correct"));
            bar.set_message(progress.file);
        }
        match progress.of {
            Some(of) => bar.set_length(of),
            None => bar.unset_length(),
        }
        bar.set_position(progress.bytes);
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
