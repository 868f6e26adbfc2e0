//! Dead letters: list them, group them, show one, replay or discard one.

use bootstrap::{Nats, NatsClient};
use bytes::Bytes;
use client::dead_letters::{self, Action};
use client::{DeadLetter, Replayed};
use common::{DeadReason, JobId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::bulk;
use crate::command::dead::{Chosen, Dead, Filter};
use crate::interrupt::until;
use crate::print::{Printer, failure, moment, note, print, shown};
use crate::summary::{line, summary};

/// The most dead letters that are read for groups.
const GROUPED: usize = 10_000;

pub(crate) async fn run(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    dead: Dead,
) -> anyhow::Result<bool> {
    let client = &nats.client;
    match dead {
        Dead::List { filter, limit } => until(stop, list(client, out, &filter, limit)).await,
        Dead::Groups { filter } => until(stop, groups(client, out, &filter)).await,
        Dead::Show { id } => until(stop, show(client, out, id)).await,
        Dead::Replay(replay) => {
            let payload = replay.payload.as_ref();
            let payload = payload.map(|payload| Bytes::from(payload.0.get().to_owned()));
            let (action, chosen) = (Action::Replay, &replay.chosen);
            match chosen.which.id {
                Some(id) => one(client, out, action, id, chosen, payload).await,
                None => bulk::run(client, out, stop, action, replay.rate, chosen).await,
            }
        }
        Dead::Discard(discard) => match discard.chosen.which.id {
            Some(id) => one(client, out, Action::Discard, id, &discard.chosen, None).await,
            None => bulk::run(client, out, stop, Action::Discard, None, &discard.chosen).await,
        },
    }
}

async fn list(
    client: &NatsClient,
    out: Printer,
    filter: &Filter,
    limit: usize,
) -> anyhow::Result<bool> {
    let letters = dead_letters::list(client, &filter.which(), 0, limit).await?;
    for letter in &letters {
        out.either(&summary(letter), || line(letter))?;
    }
    if letters.is_empty() && !out.json {
        print("no dead letters match")?;
    }
    Ok(true)
}

async fn groups(client: &NatsClient, out: Printer, filter: &Filter) -> anyhow::Result<bool> {
    let found = dead_letters::groups(client, &filter.which(), GROUPED).await?;
    for group in &found.groups {
        let json = json!({
            "kind": group.kind,
            "reason": group.reason,
            "code": group.code,
            "error": group.message,
            "count": group.count,
            "newest": group.newest,
            "oldest": group.oldest,
            "example": group.example,
        });
        out.either(&json, || {
            let reason = group.reason.map_or("?", DeadReason::as_str);
            format!(
                "{} {} {reason}: {}\n  from {} to {}, such as {}",
                group.count,
                group.kind,
                shown(&group.message),
                moment(group.oldest),
                moment(group.newest),
                group.example
            )
        })?;
    }
    if found.groups.is_empty() && !out.json {
        print("no dead letters match")?;
    }
    if !found.complete {
        let looked_at = found.looked_at;
        note(&format!(
            "there are more dead letters: these groups hold the newest {looked_at}"
        ));
    }
    Ok(true)
}

async fn show(client: &NatsClient, out: Printer, id: JobId) -> anyhow::Result<bool> {
    let Some(letter) = dead_letters::show(client, id).await? else {
        return nothing(out, id);
    };
    out.either(&as_json(&letter)?, || text(&letter))?;
    Ok(true)
}

/// Replays or discards the dead letter of a job; with --dry-run, only prints what would be done. A
/// payload replaces that of the job in a replay.
async fn one(
    client: &NatsClient,
    out: Printer,
    action: Action,
    id: JobId,
    chosen: &Chosen,
    payload: Option<Bytes>,
) -> anyhow::Result<bool> {
    let Some(letter) = dead_letters::show(client, id).await? else {
        return nothing(out, id);
    };
    let did = action.did();
    if chosen.dry_run {
        let summary_of = letter.summary();
        out.either(&summary(&summary_of), || {
            format!("{}\njob {id} would be {did}", line(&summary_of))
        })?;
        return Ok(true);
    }
    let done = match payload {
        Some(_) => dead_letters::replay(client, &letter, payload).await?,
        None => action.apply(client, &letter).await?,
    };
    out.either(&json!({"id": id, did: done == Replayed::Yes}), || {
        format!("job {id} {}", bulk::told(action, done))
    })?;
    Ok(true)
}

fn nothing(out: Printer, id: JobId) -> anyhow::Result<bool> {
    out.either(&json!({"id": id, "dead": false}), || {
        format!("there is no dead letter of job {id}")
    })?;
    Ok(false)
}

fn as_json(letter: &DeadLetter) -> anyhow::Result<Value> {
    let headers: Vec<_> = letter.submitted_headers().collect();
    let mut all = summary(&letter.summary());
    all["payload"] = String::from_utf8_lossy(&letter.payload).into();
    all["headers"] = json!(headers);
    all["failures"] = serde_json::to_value(&letter.failures)?;
    Ok(all)
}

fn text(letter: &DeadLetter) -> String {
    let mut lines = vec![line(&letter.summary())];
    for failed in &letter.failures {
        let (name, text) = failure(failed);
        lines.push(if failed.is_mark() {
            format!("  {name} {text}")
        } else {
            format!("  {text}")
        });
    }
    for (name, value) in letter.submitted_headers() {
        lines.push(format!("  {}: {}", shown(name), shown(value)));
    }
    lines.push(format!(
        "  {}",
        shown(&String::from_utf8_lossy(&letter.payload))
    ));
    lines.join("\n")
}
