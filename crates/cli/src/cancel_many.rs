//! Cancels many jobs.

use bootstrap::{Nats, NatsClient};
use client::{Canceller, Filter, ToCancel};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::command::cancel::Cancel;
use crate::confirm::{Answer, ask};
use crate::interrupt::until;
use crate::list::{as_json, line};
use crate::print::{Printer, counted, note, print};

/// Asks for confirmation, then requests to cancel all jobs that match. Returns false if it did not do
/// so for some.
pub(crate) async fn run(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    cancel: &Cancel,
) -> anyhow::Result<bool> {
    let (client, filter) = (&nats.client, cancel.filter());
    if cancel.dry_run {
        return until(stop, rehearse(client, out, &filter)).await;
    }
    if !cancel.yes {
        let asking = async { ask("cancel", count(client, &filter).await?, "job").await };
        let asking = stop.run_until_cancelled(asking);
        match asking.await.transpose()? {
            Some(Answer::Yes) => {}
            Some(Answer::NothingMatches) => return report(out, 0, 0, true),
            Some(Answer::No) | None => {
                note("nothing was changed");
                return Ok(false);
            }
        }
    }
    let canceller = Canceller::new(client, nats.connected());
    let mut pages = ToCancel::new(client, &filter).await?;
    let (mut requested, mut failed) = (0, 0);
    while let Some(page) = stop.run_until_cancelled(pages.next()).await {
        let page = match page {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(error) => {
                report(out, requested, failed, false)?;
                return Err(error.context("the jobs cannot be listed"));
            }
        };
        // Not interrupted: otherwise it would not be known which requests are stored.
        let refused = canceller.cancel(page.iter().map(|job| job.id)).await;
        requested += page.len() - refused.len();
        failed += refused.len();
        for (id, error) in refused {
            note(&format!("job {id} is not cancelled: {error}"));
        }
    }
    report(out, requested, failed, !stop.is_cancelled())
}

/// Lists the jobs that would be cancelled, the newest first, and their number.
async fn rehearse(client: &NatsClient, out: Printer, filter: &Filter) -> anyhow::Result<bool> {
    let mut pages = ToCancel::new(client, filter).await?;
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        for job in &page {
            out.either(&as_json(job), || line(job))?;
        }
        count += page.len();
    }
    if !out.json {
        print(&format!("{} would be cancelled", jobs(count)))?;
    }
    Ok(true)
}

/// Counts the jobs that match.
async fn count(client: &NatsClient, filter: &Filter) -> anyhow::Result<u64> {
    let mut pages = ToCancel::new(client, filter).await?;
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        count += page.len() as u64;
    }
    Ok(count)
}

fn jobs(count: usize) -> String {
    counted(count as u64, "job")
}

fn report(out: Printer, requested: usize, failed: usize, complete: bool) -> anyhow::Result<bool> {
    let json = json!({"requested": requested, "failed": failed, "complete": complete});
    out.either(&json, || {
        let cancelled = format!("cancellation of {} requested", jobs(requested));
        match (requested, failed) {
            (0, 0) => "no jobs match".to_owned(),
            (_, 0) => cancelled,
            _ => format!("{cancelled}\n{} not cancelled", jobs(failed)),
        }
    })?;
    if !complete {
        note("stopped: some jobs were not reached");
    }
    Ok(failed == 0 && complete)
}
