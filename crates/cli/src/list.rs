//! Lists jobs.

use bootstrap::Nats;
use client::{Filter, Listed, Page};
use serde_json::{Value, json};

use crate::command::List;
use crate::print::{Printer, moment, note, print, shown};

/// How many jobs are requested at a time.
const PAGE: u64 = 200;

pub(crate) async fn run(nats: &Nats, out: Printer, list: List) -> anyhow::Result<bool> {
    let filter = Filter {
        state: list.state,
        kind: list.kind,
    };
    let mut left = if list.all { u64::MAX } else { list.limit.get() };
    let (mut cursor, mut some) = (list.cursor, false);
    loop {
        let most = usize::try_from(left.min(PAGE))?;
        let Page { jobs, next, .. } = client::list(&nats.client, &filter, cursor, most).await?;
        for job in &jobs {
            out.either(&as_json(job), || line(job))?;
        }
        some |= !jobs.is_empty();
        left = left.saturating_sub(jobs.len() as u64);
        cursor = next;
        match cursor {
            // A page may hold few jobs that match, or none.
            Some(_) if left > 0 => {}
            Some(cursor) => {
                note(&format!("there are more: --cursor {cursor}"));
                return Ok(true);
            }
            None => break,
        }
    }
    if !some && !out.json {
        print("no jobs match")?;
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
