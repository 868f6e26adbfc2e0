//! Does the same with many dead letters.

use std::num::NonZeroU32;
use std::time::Duration;

use client::dead_letters::{Action, Remaining};
use client::{DeadLetter, Replayed, Which};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::access::Operator;
use crate::app::App;
use crate::problem::Problem;

/// After this it is said how far it came; whoever does it again goes on there.
const LONGEST: Duration = Duration::from_mins(5);

/// The most letters a second that may be asked for.
pub(crate) const FASTEST: u32 = 100_000;

/// What came of many dead letters.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = ManyDeadLetters)]
pub(crate) struct Came {
    /// How many were replayed, or discarded.
    pub(crate) done: u64,
    /// How many somebody else had replayed meanwhile.
    pub(crate) already: u64,
    /// How many were left as they are, because something went wrong.
    pub(crate) failed: u64,
    /// Whether these were all that there were at the beginning; if not, ask again to go on.
    pub(crate) complete: bool,
    /// What went wrong last, if something did: why a letter was left as it is, or why this ended
    /// before all were done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Came {
    fn is_nothing(&self) -> bool {
        self.done + self.already + self.failed == 0
    }
}

/// Does something with each dead letter that is meant and was there at the beginning, the oldest
/// first, at most so many a second. It stops after five minutes, when the gateway does, when
/// nobody waits for it any more, and when the letters cannot be listed, of which it tells what it
/// did before.
///
/// # Errors
/// When the rate is too high, there is no place for one more that waits, or NATS is away at the
/// beginning.
pub(crate) async fn all(
    app: &App,
    which: &Which,
    rate: Option<NonZeroU32>,
    action: Action,
    operator: &Operator,
) -> Result<Came, Problem> {
    if rate.is_some_and(|rate| rate.get() > FASTEST) {
        return Err(Problem::bad(
            "rate",
            format!("the highest rate is {FASTEST} a second"),
        ));
    }
    let _place = app.limits.wait()?;
    app.check_nats()?;
    let client = &app.nats.client;
    let until = Instant::now() + LONGEST;
    let mut letters = Remaining::new(client, which, rate).await?;
    let mut came = Came::default();
    loop {
        let next = timeout_at(until, letters.next());
        let Some(Ok(next)) = app.context.shutdown.run_until_cancelled(next).await else {
            break;
        };
        let letter = match next {
            Ok(Some(letter)) => letter,
            Ok(None) => {
                came.complete = true;
                break;
            }
            Err(error) if came.is_nothing() => return Err(error.into()),
            Err(error) => {
                came.error = Some(format!("the dead letters cannot be listed: {error:#}"));
                break;
            }
        };
        // Letters that are there already are no reason to wait, and so to be late.
        if Instant::now() >= until {
            break;
        }
        one(app, letter, action, &mut came).await;
    }
    info!(
        done = came.done,
        already = came.already,
        failed = came.failed,
        complete = came.complete,
        error = came.error,
        ?action,
        by = %operator.name,
        "went through the dead letters"
    );
    Ok(came)
}

async fn one(app: &App, letter: DeadLetter, action: Action, came: &mut Came) {
    let shared = app.clone();
    let id = letter.id;
    // Where nobody waits any more, this letter is still the last that is done.
    let done = app.finish(async move {
        let done = action.apply(&shared.nats.client, &letter).await;
        shared.letters_changed();
        Ok(done?)
    });
    match done.await {
        Ok(Replayed::Yes) => came.done += 1,
        Ok(Replayed::Already) => came.already += 1,
        Err(problem) => {
            came.failed += 1;
            warn!(job.id = %id, "dead letter left as it is: {}", problem.detail);
            came.error = Some(format!("job {id}: {}", problem.detail));
        }
    }
}
