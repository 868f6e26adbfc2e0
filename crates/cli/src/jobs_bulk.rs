//! Cancels many jobs, or runs many waiting jobs now.

use bootstrap::{Nats, NatsClient};
use client::{Filter, ManyAction, ManyJobs, ManyWorker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::command::jobs_bulk::Jobs;
use crate::confirm::{Answer, ask};
use crate::interrupt::until;
use crate::list::{as_json, line};
use crate::print::{Printer, counted, note, print};

/// Asks for confirmation, then requests to cancel all jobs that match, or runs them now. Returns false if it did
/// not do so for some.
pub(crate) async fn run(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    action: ManyAction,
    jobs: &Jobs,
) -> anyhow::Result<bool> {
    let (client, filter) = (&nats.client, jobs.filter());
    if jobs.dry_run {
        return until(stop, rehearse(client, out, action, &filter)).await;
    }
    if !jobs.yes {
        let (verb, noun) = match action {
            ManyAction::Cancel => ("cancel", "job"),
            ManyAction::RunNow => ("run now", "waiting job"),
        };
        let asking = async { ask(verb, count(client, action, &filter).await?, noun).await };
        let asking = stop.run_until_cancelled(asking);
        match asking.await.transpose()? {
            Some(Answer::Yes) => {}
            Some(Answer::NothingMatches) => return report(out, action, 0, 0, true),
            Some(Answer::No) | None => {
                note("nothing was changed");
                return Ok(false);
            }
        }
    }
    let worker = ManyWorker::new(client, nats.connected(), action);
    let mut pages = ManyJobs::new(client, action, &filter).await?;
    let (mut done, mut failed) = (0, 0);
    while let Some(page) = stop.run_until_cancelled(pages.next()).await {
        let page = match page {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(error) => {
                report(out, action, done, failed, false)?;
                return Err(error.context("the jobs cannot be listed"));
            }
        };
        // Not interrupted: otherwise it would not be known what was done.
        let all = worker.apply(page.iter().map(|job| job.id)).await;
        done += all.done;
        failed += all.failed.len();
        for (id, error) in all.failed {
            note(&match action {
                ManyAction::Cancel => format!("job {id} is not cancelled: {error}"),
                ManyAction::RunNow => format!("job {id} may not run now: {error}"),
            });
        }
    }
    report(out, action, done, failed, !stop.is_cancelled())
}

/// Lists the jobs that would be changed, the newest first, and their number.
async fn rehearse(
    client: &NatsClient,
    out: Printer,
    action: ManyAction,
    filter: &Filter,
) -> anyhow::Result<bool> {
    let mut pages = ManyJobs::new(client, action, filter).await?;
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        for job in &page {
            out.either(&as_json(job), || line(job))?;
        }
        count += page.len();
    }
    if !out.json {
        print(&match action {
            ManyAction::Cancel => format!("{} would be cancelled", jobs(count)),
            ManyAction::RunNow => format!("{} would run now", jobs(count)),
        })?;
    }
    Ok(true)
}

/// Counts the jobs that match.
async fn count(client: &NatsClient, action: ManyAction, filter: &Filter) -> anyhow::Result<u64> {
    let mut pages = ManyJobs::new(client, action, filter).await?;
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        count += page.len() as u64;
    }
    Ok(count)
}

fn jobs(count: usize) -> String {
    counted(count as u64, "job")
}

fn report(
    out: Printer,
    action: ManyAction,
    done: usize,
    failed: usize,
    complete: bool,
) -> anyhow::Result<bool> {
    // The same names as on HTTP.
    let name = match action {
        ManyAction::Cancel => "requested",
        ManyAction::RunNow => "started",
    };
    let json = json!({name: done, "failed": failed, "complete": complete});
    out.either(&json, || {
        let (did, did_not) = match action {
            ManyAction::Cancel => (
                format!("cancellation of {} requested", jobs(done)),
                format!("{} not cancelled", jobs(failed)),
            ),
            ManyAction::RunNow => (
                format!("{} due within a second", jobs(done)),
                format!("{} may not run now", jobs(failed)),
            ),
        };
        match (done, failed) {
            (0, 0) => "no jobs match".to_owned(),
            (_, 0) => did,
            _ => format!("{did}\n{did_not}"),
        }
    })?;
    if !complete {
        note("stopped: some jobs were not reached");
    }
    Ok(failed == 0 && complete)
}
