//! Lists jobs.

use bootstrap::Nats;
use client::{Listed, Page};
use serde_json::{Value, json};

use crate::command::List;
use crate::print::{Printer, counted, moment, note, print, shown};

/// How many jobs are requested at a time.
const PAGE: u64 = 200;

/// After how many records a list ends that does not find enough, unless all jobs are asked for.
const MOST_LOOKED_AT: u64 = 100_000;

pub(crate) async fn run(nats: &Nats, out: Printer, list: List) -> anyhow::Result<bool> {
    let filter = list.search.filter();
    let from_the_start = list.cursor.is_none();
    let mut looked_at = 0;
    let read = |looked_at| {
        if filter.is_all() {
            return String::new();
        }
        format!("{} read; ", counted(looked_at, "record"))
    };
    let mut left = if list.all { u64::MAX } else { list.limit.get() };
    let (mut cursor, mut some) = (list.cursor, false);
    loop {
        let most = usize::try_from(left.min(PAGE))?;
        let page = client::list(&nats.client, &filter, cursor, most).await?;
        looked_at += page.looked_at as u64;
        let Page { jobs, next, .. } = page;
        for job in &jobs {
            out.either(&as_json(job), || line(job))?;
        }
        some |= !jobs.is_empty();
        left = left.saturating_sub(jobs.len() as u64);
        cursor = next;
        match cursor {
            // A page may hold few jobs that match, or none.
            Some(_) if left > 0 && (list.all || looked_at < MOST_LOOKED_AT) => {}
            Some(cursor) => {
                note(&format!(
                    "{}there are more: --cursor {cursor}",
                    read(looked_at)
                ));
                return Ok(true);
            }
            None => break,
        }
    }
    if !filter.is_all() {
        note(&format!("{}there are no more", read(looked_at)));
    }
    if some {
        return Ok(true);
    }
    let text = match &filter.kind {
        Some(kind) if from_the_start && !client::is_known_kind(&nats.client, kind).await? => {
            format!("no kind `{kind}` was ever seen: no consumer has served it, and no job has it")
        }
        _ => "no jobs match".to_owned(),
    };
    if out.json {
        note(&text);
    } else {
        print(&text)?;
    }
    Ok(true)
}

/// The same fields as on HTTP.
pub(crate) fn as_json(job: &Listed) -> Value {
    let mut all = json!({
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "at": job.at,
        "attempt": job.attempt,
        "consumer": job.consumer,
        "next_at": job.next_at,
        "reason": job.reason,
        "error": job.error,
        "duration_ms": job.duration_ms,
    });
    if let Value::Object(fields) = &mut all {
        fields.retain(|_, value| !value.is_null());
    }
    all
}

/// A job in one line of text.
pub(crate) fn line(job: &Listed) -> String {
    let kind = job
        .kind
        .as_ref()
        .map_or("?".to_owned(), ToString::to_string);
    let next = job.next_at.map(|at| format!(" until {}", moment(at)));
    let reason = job.reason.map(|reason| format!(" {reason}"));
    let error = job.error.as_ref();
    let error = error.map(|error| format!(": {}", shown(&error.message)));
    let rest: String = [next, reason, error].into_iter().flatten().collect();
    format!("{} {} {kind} {}{rest}", moment(job.at), job.id, job.state)
}
