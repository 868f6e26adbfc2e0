//! What the system guarantees for each delivery.

use client::{Guarantees, WriteHealth};

use crate::pages::history::Snapshot;

/// A guarantee, and whether it holds.
pub(crate) struct Check {
    pub(crate) tone: &'static str,
    pub(crate) word: &'static str,
    pub(crate) what: String,
}

/// The list of guarantees.
pub(super) fn checks(seen: &Snapshot) -> Vec<Check> {
    write_stop(seen.storing.as_ref())
        .into_iter()
        .chain(guaranteed(
            seen.guarantees.as_deref(),
            seen.refusal.as_deref(),
        ))
        .collect()
}

/// What comes before all guarantees: that the server stores nothing.
fn write_stop(storing: Option<&WriteHealth>) -> Option<Check> {
    match storing {
        Some(WriteHealth::Stopped(problem)) => Some(Check {
            tone: "bad",
            word: "not storing",
            what: problem.clone(),
        }),
        _ => None,
    }
}

fn guaranteed(guarantees: Option<&Guarantees>, refusal: Option<&str>) -> Vec<Check> {
    let check = |tone, word, what: &str| Check {
        tone,
        word,
        what: what.to_owned(),
    };
    let mut checks = vec![
        check(
            "idle",
            "fire-and-forget",
            "At most once: if its consumer crashes, the job is lost.",
        ),
        check(
            "idle",
            "confirmed",
            "At least once while the publisher runs: it submits the job again.",
        ),
    ];
    if let Some(refusal) = refusal {
        checks.push(check("bad", "refused", refusal));
    }
    let Some(guarantees) = guarantees else {
        checks.push(check("idle", "durable", "Not known yet."));
        return checks;
    };
    if !guarantees.jetstream {
        checks.push(check(
            "bad",
            "durable",
            "Not available: the server has no JetStream.",
        ));
        return checks;
    }
    let durable = "At least once, even if a publisher, a consumer or a server crashes; ";
    checks.push(match guarantees.synced {
        Some(true) => check(
            "good",
            "durable",
            &format!("{durable}each job is on the disk before it is confirmed."),
        ),
        Some(false) => check(
            "bad",
            "durable",
            &format!("{durable}but a power cut loses the jobs confirmed last."),
        ),
        None => check(
            "warn",
            "durable",
            &format!(
                "{durable}it is not known whether each job is on the disk before it is confirmed."
            ),
        ),
    });
    if let Some(replicas) = guarantees.replicas {
        checks.push(match replicas {
            1 => check("idle", "copies", "One, on the disk of one server."),
            more => check("good", "copies", &format!("{more}, on as many servers.")),
        });
    }
    let findings = guarantees.findings.iter();
    // The refusal may quote one of them.
    let quoted = |finding: &&String| refusal.is_some_and(|refusal| refusal.contains(&***finding));
    checks.extend(
        findings
            .filter(|finding| !quoted(finding))
            .map(|finding| Check {
                tone: "warn",
                word: "to fix",
                what: finding.clone(),
            }),
    );
    checks
}
