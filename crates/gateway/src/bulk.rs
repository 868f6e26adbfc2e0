//! Replays or discards many dead letters, one after another, for the API and the pages; and the bounds of
//! all bulk work.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use client::dead_letters::{Action, Remaining};
use client::{DeadLetter, Replayed, Which};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::{Grant, Scope};
use crate::http::Problem;

/// How long one request of the API may work; the client sends it again to go on.
const MAX_DURATION: Duration = Duration::from_mins(5);

/// The highest rate, in dead letters a second.
pub(crate) const MAX_RATE: u32 = 100_000;

/// What is done with which dead letters.
#[derive(Debug)]
pub(crate) struct BulkWork {
    pub(crate) action: Action,
    pub(crate) which: Which,
    /// The most dead letters a second; `None` is no bound.
    pub(crate) rate: Option<NonZeroU32>,
    /// The name of the token of whoever asked for it, for the log.
    pub(crate) by: Arc<str>,
}

/// What ends bulk work before all of it is done.
pub(crate) struct Bounds {
    /// The permission of whoever asked for it.
    pub(crate) grant: Grant,
    /// Cancelled when the gateway stops, or somebody stops the work.
    pub(crate) stop: CancellationToken,
    /// `None` is no bound.
    pub(crate) deadline: Option<Instant>,
}

impl Bounds {
    /// The bounds of work that a request of the API waits for.
    pub(crate) fn of_request(app: &App, headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            grant: app.access.grant(headers, Scope::Operate)?,
            stop: app.context.shutdown.clone(),
            deadline: Some(Instant::now() + MAX_DURATION),
        })
    }

    /// Waits until the work has to end. Returns the reason if it belongs in the outcome.
    pub(crate) async fn reached(&mut self) -> Option<String> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.grant.withdrawn() => {
                Some("the token was withdrawn, or lost the scope `operate`".to_owned())
            }
            () = self.stop.cancelled() => None,
            () = deadline => None,
        }
    }
}

/// The result of bulk work, or how far it is.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = ManyDeadLetters)]
pub(crate) struct BulkOutcome {
    /// How many dead letters were replayed or discarded.
    pub(crate) done: u64,
    /// How many somebody else replayed meanwhile.
    pub(crate) already: u64,
    /// How many could not be replayed or discarded; they were left as they are.
    pub(crate) failed: u64,
    /// Whether all dead letters that existed at the beginning were handled. If not, send the request
    /// again to go on.
    pub(crate) complete: bool,
    /// The last error: why a dead letter was left as it is, or why the work ended before all were
    /// handled. Absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl BulkOutcome {
    fn is_empty(&self) -> bool {
        self.done + self.already + self.failed == 0
    }
}

/// Refuses a rate above [`MAX_RATE`], and says so in words.
pub(crate) fn check_rate(rate: Option<NonZeroU32>) -> Result<(), String> {
    match rate {
        Some(rate) if rate.get() > MAX_RATE => {
            Err(format!("the highest rate is {MAX_RATE} a second"))
        }
        _ => Ok(()),
    }
}

/// Handles each matching dead letter that exists at the beginning, the oldest first. After each of
/// them, `progress` is told how far the work is.
///
/// If the work ends early, the outcome says what was done until then.
///
/// # Errors
/// When the dead letters cannot be listed at the beginning.
pub(crate) async fn run(
    app: &App,
    work: &BulkWork,
    mut bounds: Bounds,
    mut progress: impl FnMut(&BulkOutcome),
) -> Result<BulkOutcome, Problem> {
    info!(
        by = %work.by, kind = ?work.which.kind, reason = ?work.which.reason,
        error = ?work.which.error, action = ?work.action, "bulk work on dead letters begins"
    );
    let mut outcome = BulkOutcome::default();
    let mut remaining = Remaining::new(&app.nats.client, &work.which, work.rate).await?;
    loop {
        // In this order, so that no number of dead letters that need no waiting hides an end.
        let next = tokio::select! {
            biased;
            why = bounds.reached() => {
                outcome.error = why.or(outcome.error);
                break;
            }
            next = remaining.next() => next,
        };
        match next {
            Ok(Some(letter)) => {
                handle(app, work.action, letter, &mut outcome).await;
                progress(&outcome);
            }
            Ok(None) => {
                outcome.complete = true;
                break;
            }
            Err(error) if outcome.is_empty() => return Err(error.into()),
            Err(error) => {
                outcome.error = Some(format!("the dead letters cannot be listed: {error:#}"));
                break;
            }
        }
    }
    info!(
        done = outcome.done,
        already = outcome.already,
        failed = outcome.failed,
        complete = outcome.complete,
        error = outcome.error,
        action = ?work.action,
        by = %work.by,
        "bulk work on dead letters ended"
    );
    Ok(outcome)
}

async fn handle(app: &App, action: Action, letter: DeadLetter, outcome: &mut BulkOutcome) {
    let shared = app.clone();
    let id = letter.id;
    // If the client goes away, this dead letter is the last one, and is finished.
    let handled = app.finish(async move {
        let handled = action.apply(&shared.nats.client, &letter).await;
        shared.dead_letters_changed();
        Ok(handled?)
    });
    match handled.await {
        Ok(Replayed::Yes) => outcome.done += 1,
        Ok(Replayed::Already) => outcome.already += 1,
        Err(problem) => {
            outcome.failed += 1;
            warn!(job.id = %id, "dead letter left as it is: {}", problem.detail);
            outcome.error = Some(format!("job {id}: {}", problem.detail));
        }
    }
}
