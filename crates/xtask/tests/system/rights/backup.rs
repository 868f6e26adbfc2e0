//! A backup during which everything changed that can change.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::{JobId, subjects};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Adds a message of each sort to what was stored while the snapshots of a backup were made.
pub(crate) fn change_everything(folder: &Path) {
    let (job, dead) = (JobId::generate(), JobId::generate());
    let kind = "nobody.serves".parse().unwrap();
    // Its job is nowhere, so the record is removed again.
    let record = json!({
        "id": job, "kind": "nobody.serves", "state": "running", "at": "2026-01-31T09:30:00Z", "run": 1, "attempt": 1,
    });
    let later = JobId::generate();
    let schedule = json!([
        ["Nats-Schedule", "@at 2100-01-01T00:00:00Z"],
        [
            "Nats-Schedule-Target",
            format!("jobs.due.{later}.normal.2.nobody.serves")
        ],
    ]);
    let none = json!([]);
    let letter = json!([["Jobs-Reason", "permanent"], ["Jobs-Run", "1"]]);
    add(
        folder,
        "JOBS_LATER.ndjson",
        &[(subjects::later(later), schedule, json!({"id": later}))],
    );
    add(
        folder,
        "JOBS_STATE.ndjson",
        &[
            (subjects::state(job), none.clone(), record),
            (subjects::cancel(job), none.clone(), Value::Null),
            (subjects::overdue(1, job), none.clone(), Value::Null),
            (
                "jobs.kind.nobody=serves".to_owned(),
                none.clone(),
                json!({}),
            ),
            ("jobs.cron.nobody".to_owned(), none, json!({})),
        ],
    );
    add(
        folder,
        "dead-letters.ndjson",
        &[(subjects::dead(dead, &kind), letter, json!({"id": dead}))],
    );
}

/// Adds messages to a file of a backup, and notes that in the manifest.
fn add(folder: &Path, name: &str, messages: &[(String, Value, Value)]) {
    let mut text = fs::read_to_string(folder.join(name)).unwrap();
    for (subject, headers, payload) in messages {
        let payload = BASE64.encode(payload.to_string());
        let line =
            json!({"sequence": 1, "subject": subject, "headers": headers, "payload": payload});
        writeln!(text, "{line}").unwrap();
    }
    fs::write(folder.join(name), &text).unwrap();
    let manifest = folder.join("manifest.json");
    let mut read: Value = serde_json::from_str(&fs::read_to_string(&manifest).unwrap()).unwrap();
    let digest = Sha256::digest(&text);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}"));
    read["files"][name] = json!({"bytes": text.len(), "sha256": sha256.collect::<String>()});
    fs::write(manifest, read.to_string()).unwrap();
}
