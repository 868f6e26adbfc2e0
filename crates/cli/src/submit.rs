//! Submits one durable job.

use std::time::Duration;

use anyhow::Context as _;
use bootstrap::Nats;
use client::{NewJob, Patience, Submitted, Submitter};
use common::{JobMessage, Timestamp, Unique};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::command::Submit;
use crate::lookup;
use crate::print::{Printer, note};

/// How long the server may take to store the job, including all retries.
const CONFIRM: Duration = Duration::from_secs(10);

pub(crate) async fn run(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    submit: Submit,
) -> anyhow::Result<bool> {
    let job = job(&submit)?;
    let id = job.id;
    let patience = Patience {
        confirm: CONFIRM,
        wait_for_nats: false,
        wait_for_room: false,
    };
    let submitter = Submitter::new(nats, patience);
    let Some(stored) = stop.run_until_cancelled(submitter.submit(&job)).await else {
        note(&format!(
            "stopped before the server confirmed job {id}; submit it again with --id {id}, it is not stored twice"
        ));
        return Ok(false);
    };
    let stored = stored.with_context(|| format!("submitting job {id} failed"))?;
    let (id, known) = match stored {
        Submitted::Stored => (id, false),
        Submitted::Known => {
            note(&format!("job {id} exists already; nothing was stored"));
            (id, true)
        }
        Submitted::Kept(holder) => {
            note(&format!("job {holder} holds the key; nothing was stored"));
            (holder, true)
        }
    };
    if !submit.wait {
        out.either(&json!({"id": id, "known": known}), || id.to_string())?;
        return Ok(true);
    }
    let wait = lookup::wait(nats, out, id, submit.wait_timeout);
    stop.run_until_cancelled(wait).await.unwrap_or_else(|| {
        note(&format!(
            "job {id} is submitted; run `jobs wait {id}` to wait for its end"
        ));
        Ok(false)
    })
}

/// The job that the command line describes.
fn job(submit: &Submit) -> anyhow::Result<NewJob> {
    let now = Timestamp::now();
    let job = JobMessage {
        id: submit.id,
        payload: submit.payload.as_ref().map(|payload| &*payload.0),
        created_at: Some(now),
        timeout: submit.timeout,
        deadline: submit.deadline,
        max_attempts: submit.max_attempts,
        priority: submit.priority,
        run_at: submit
            .delay
            .map(|delay| now.after(delay.get()))
            .or(submit.run_at),
        unique: submit.unique.clone().map(|key| Unique {
            key,
            until: submit.unique_until,
            on_conflict: submit.on_conflict,
        }),
        ..JobMessage::new(submit.kind.clone())
    };
    let text = serde_json::to_vec(&job).context("cannot write the job as JSON")?;
    Ok(NewJob::decode(text.into())?)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;
    use common::{JobId, OnConflict, Until};

    use super::*;

    fn made(args: &[&str]) -> anyhow::Result<NewJob> {
        let args = [&["jobs", "submit", "--kind", "mail"], args].concat();
        let matches = crate::tool::TOOL.command::<crate::command::Config>();
        let matches = matches.try_get_matches_from(args)?;
        let config = crate::command::Config::from_arg_matches(&matches)?;
        let crate::command::Command::Submit(submit) = config.command else {
            panic!("another command");
        };
        job(&submit)
    }

    #[test]
    fn a_job_is_what_the_flags_say() {
        let id = JobId::generate().to_string();
        let new = made(&[
            "--id",
            &id,
            "--payload",
            "[1.50]",
            "--priority",
            "low",
            "--timeout",
            "5s",
            "--max-attempts",
            "3",
            "--delay",
            "1h",
            "--unique",
            "user-7",
            "--unique-until",
            "started",
            "--on-conflict",
            "keep",
            "--deadline",
            "2100-01-31T09:30:00Z",
        ])
        .unwrap();
        assert!(!new.fresh, "an id from outside may be known");
        let job = JobMessage::decode(&new.payload).unwrap();
        assert_eq!(job.id.unwrap().to_string(), id);
        assert_eq!(job.payload.unwrap().get(), "[1.50]");
        let waits = job.run_at.unwrap().since(job.created_at.unwrap());
        assert_eq!(waits, Duration::from_hours(1));
        assert_eq!(new.run_at, job.run_at);
        assert_eq!(job.max_attempts.map(common::MaxAttempts::get), Some(3));
        assert!(job.deadline.is_some() && job.timeout.is_some());
        let unique = Unique {
            key: "user-7".parse().unwrap(),
            until: Until::Started,
            on_conflict: OnConflict::Keep,
        };
        assert_eq!(job.unique.as_ref(), Some(&unique));
        assert_eq!(new.unique, job.unique);
        let plain = made(&[]).unwrap();
        assert!(plain.fresh);
        assert!(
            JobMessage::decode(&plain.payload)
                .unwrap()
                .payload
                .is_none()
        );
    }

    #[test]
    fn a_time_that_nothing_can_wait_for_is_refused() {
        let error = made(&["--run-at", "2300-01-01T00:00:00Z"]).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("run_at") && error.contains("2262"),
            "{error}"
        );
    }
}
