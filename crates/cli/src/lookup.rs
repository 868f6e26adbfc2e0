//! One job: show it, wait for it, cancel it.

use std::time::Duration;

use anyhow::Context as _;
use bootstrap::Nats;
use client::{Key, Reason, RunNow, Waited, Why, kinds};
use common::{JobId, JobRecord, JobState, KindSetting, Timestamp, Until};
use serde_json::json;

use crate::kinds::paused;
use crate::print::{Printer, failure, note, shown};

pub(crate) async fn info(nats: &Nats, out: Printer, id: JobId) -> anyhow::Result<bool> {
    let record = client::look_up(&nats.client, id).await?;
    show(out, id, record.as_ref())?;
    if let Some(record) = &record
        && let Some((all, own)) = pauses_of(nats, record).await
    {
        if let Some(setting) = all {
            note(&format!("all kinds are {}", paused(&setting)));
        }
        if let Some(setting) = own {
            note(&format!("its kind is {}", paused(&setting)));
        }
    }
    // Of a job that has ended otherwise, the key is nobody's business any more.
    if let Some(record) = &record
        && (!record.state.is_final() || record.state == JobState::Dead)
        && let Some(key) = key_of(nats, record).await
    {
        note_key(record, &key);
    }
    Ok(record.is_some())
}

/// The key of a job. If it cannot be read now, the job is shown all the same.
async fn key_of(nats: &Nats, record: &JobRecord) -> Option<Key> {
    let client = &nats.client;
    if let Some(job) = &record.job {
        return client::key_of(client, job.get().as_bytes()).await.ok()?;
    }
    let message = client::message(client, record).await.ok()??;
    client::key_of(client, &message).await.ok()?
}

/// Says whether a job holds its key, or which other job does.
fn note_key(record: &JobRecord, Key { unique, holder }: &Key) {
    let key = shown(unique.key.as_str());
    match holder {
        Some(holder) if *holder == record.id => note(&match unique.until {
            Until::Ended => format!("it holds the key {key} until it has ended"),
            Until::Started => format!("it holds the key {key} until its first attempt starts"),
        }),
        Some(holder) => note(&format!("its key {key} is held by job {holder}")),
        None => {}
    }
}

/// The setting of all kinds and that of the kind of a job that waits, each if it pauses the job. If they cannot
/// be read now, the job is shown all the same.
async fn pauses_of(
    nats: &Nats,
    record: &JobRecord,
) -> Option<(Option<KindSetting>, Option<KindSetting>)> {
    let kind = record.kind.as_ref()?;
    let waits = [JobState::Scheduled, JobState::Queued, JobState::Retrying];
    if !waits.contains(&record.state) {
        return None;
    }
    let now = Timestamp::now();
    let all = kinds::get_all(&nats.client).await.ok().flatten();
    let own = kinds::get(&nats.client, kind).await.ok().flatten();
    Some((
        all.filter(|setting| setting.is_paused(now)),
        own.filter(|setting| setting.is_paused(now)),
    ))
}

/// Says why a job has not ended; returns whether the job is known.
pub(crate) async fn why(nats: &Nats, out: Printer, id: JobId) -> anyhow::Result<bool> {
    let Some(Why { state, reasons }) = client::why(&nats.client, id).await? else {
        show(out, id, None)?;
        return Ok(false);
    };
    let as_json = |reason: &Reason| {
        let mut all = json!({"reason": reason.name(), "text": reason.to_string()});
        if let Some(until) = reason.until() {
            all["until"] = json!(until);
        }
        if let Some(jobs) = reason.jobs_in_front() {
            all["jobs_in_front"] = json!(jobs);
        }
        if let Some(holder) = reason.key_holder() {
            all["holder"] = json!(holder);
        }
        all
    };
    let all: Vec<_> = reasons.iter().map(as_json).collect();
    out.either(&json!({"id": id, "state": state, "reasons": all}), || {
        let mut lines = vec![format!("job {id} is {state}")];
        if reasons.is_empty() && !state.is_final() {
            lines.push("  it is about to run".to_owned());
        }
        lines.extend(reasons.iter().map(|reason| format!("  {reason}")));
        lines.join("\n")
    })?;
    Ok(true)
}

/// Waits for a job and shows it; returns whether it succeeded.
pub(crate) async fn wait(
    nats: &Nats,
    out: Printer,
    id: JobId,
    timeout: Duration,
) -> anyhow::Result<bool> {
    let waited = client::wait(&nats.client, nats.connected(), id, timeout).await;
    match waited.with_context(|| format!("cannot wait for job {id}"))? {
        Waited::Ended(record) => {
            show(out, id, Some(&record))?;
            Ok(record.state == JobState::Succeeded)
        }
        Waited::NotYet(record) => {
            show(out, id, record.as_deref())?;
            let timeout = humantime::format_duration(timeout);
            note(&format!("job {id} has not ended within {timeout}"));
            Ok(false)
        }
    }
}

/// Requests to cancel a job that has not ended, and prints the result. Returns false if the job is
/// unknown or has ended in another way.
pub(crate) async fn cancel(nats: &Nats, out: Printer, id: JobId) -> anyhow::Result<bool> {
    let known = client::look_up(&nats.client, id)
        .await
        .with_context(|| format!("job {id} is not cancelled: it cannot be looked up"))?;
    let state = known.map(|record| record.state);
    let (said, text) = match state {
        None => (
            "refused",
            format!("job {id} is not cancelled: it is unknown, or its record has expired"),
        ),
        Some(JobState::Cancelled) => ("done", format!("job {id} is cancelled")),
        Some(JobState::Dead) => (
            "refused",
            format!("job {id} is not cancelled: it is dead; discard its dead letter instead"),
        ),
        Some(state) if state.is_final() => (
            "refused",
            format!("job {id} is not cancelled: it has ended as {state}"),
        ),
        Some(_) => {
            client::cancel(&nats.client, id)
                .await
                .with_context(|| format!("job {id} is not cancelled"))?;
            (
                "requested",
                format!("cancellation of job {id} requested, unless it ends first"),
            )
        }
    };
    let state = state.map_or("unknown", JobState::as_str);
    out.either(&json!({"id": id, "cancel": said, "state": state}), || text)?;
    Ok(said != "refused")
}

/// Runs a waiting job now, and prints the result. Returns false if it does not wait for a time.
pub(crate) async fn run_now(nats: &Nats, out: Printer, id: JobId) -> anyhow::Result<bool> {
    let asked = client::run_now(&nats.client, id).await;
    let result = asked.with_context(|| format!("it is not known whether job {id} runs now"))?;
    out.either(&json!({"id": id, "result": result}), || match result {
        RunNow::Done => format!("job {id} is due within a second"),
        RunNow::Due => format!("job {id} was due within a second anyway"),
        RunNow::NotWaiting => {
            format!(
                "job {id} does not wait for a time: it is queued, runs, has ended or is unknown"
            )
        }
    })?;
    Ok(result != RunNow::NotWaiting)
}

/// Prints the record of a job.
fn show(out: Printer, id: JobId, record: Option<&JobRecord>) -> anyhow::Result<()> {
    match record {
        Some(record) => out.either(record, || text(record)),
        None => out.either(&json!({"id": id, "state": "unknown"}), || {
            format!("job {id} is unknown, or its record has expired")
        }),
    }
}

fn text(record: &JobRecord) -> String {
    let mut lines = vec![format!("job       {}", record.id)];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<9} {value}"));
        }
    };
    add("kind", record.kind.as_ref().map(ToString::to_string));
    add(
        "state",
        Some(format!("{} since {}", record.state, record.at)),
    );
    add("reason", record.reason.map(|reason| reason.to_string()));
    add("next run", record.next_at.map(|at| at.to_string()));
    add(
        "schedule",
        record.schedule.as_ref().map(ToString::to_string),
    );
    add("consumer", record.consumer.as_deref().map(shown));
    add(
        "attempt",
        (record.attempt > 0).then(|| record.attempt.to_string()),
    );
    add("took", record.duration_ms.map(|took| format!("{took} ms")));
    // The job as it was submitted, if the record holds it.
    add("submitted", record.job.as_ref().map(|job| shown(job.get())));
    add(
        "result",
        record.result.as_ref().map(|result| shown(result.get())),
    );
    for failed in &record.failures {
        let (name, text) = failure(failed);
        add(&name, Some(text));
    }
    lines.join("\n")
}
