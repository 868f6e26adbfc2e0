//! The bulk work on dead letters that the dashboard has begun: it runs in the background, one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::dead_letters::Action;
use tokio_util::sync::CancellationToken;

use super::widgets::text;
use crate::app::App;
use crate::auth::Grant;
use crate::bulk::{self, Bounds, BulkOutcome, BulkWork};
use crate::http::Problem;

/// A place for one bulk work. Clones share it.
#[derive(Clone)]
pub(crate) struct BulkSlot {
    /// The work that was begun last; `None` before the first.
    work: Arc<Mutex<Option<Work>>>,
    shutdown: CancellationToken,
}

struct Work {
    action: Action,
    stop: CancellationToken,
    state: Arc<Mutex<State>>,
}

/// How far bulk work is.
#[derive(Default)]
struct State {
    outcome: BulkOutcome,
    ended: bool,
}

/// Another bulk work has not ended yet.
#[derive(Debug)]
pub(crate) struct Occupied;

/// How far bulk work is, for the page.
pub(crate) struct Progress {
    pub(crate) text: String,
    pub(crate) running: bool,
    pub(crate) failed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No panic can leave the content half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BulkSlot {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            work: Arc::default(),
            shutdown,
        }
    }

    /// How far the work is that was begun last; `None` if there was none.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let work = lock(&self.work);
        let work = work.as_ref()?;
        Some(progress(work.action, &lock(&work.state)))
    }

    /// Begins bulk work in the background.
    ///
    /// # Errors
    /// While another one has not ended.
    pub(crate) fn begin(&self, app: &App, work: BulkWork, grant: Grant) -> Result<(), Occupied> {
        let mut slot = lock(&self.work);
        if slot.as_ref().is_some_and(|work| !lock(&work.state).ended) {
            return Err(Occupied);
        }
        let stop = self.shutdown.child_token();
        let state = Arc::<Mutex<State>>::default();
        *slot = Some(Work {
            action: work.action,
            stop: stop.clone(),
            state: Arc::clone(&state),
        });
        let bounds = Bounds {
            grant,
            stop,
            deadline: None,
        };
        let app = app.clone();
        // However the task ends, the slot is free then.
        let ending = Ending(state);
        tokio::spawn(async move {
            let show = |outcome: &BulkOutcome| lock(&ending.0).outcome = outcome.clone();
            let result = bulk::run(&app, &work, bounds, show).await;
            ending.end(result);
        });
        Ok(())
    }

    /// Stops the work that was begun last.
    pub(crate) fn stop(&self) {
        if let Some(work) = &*lock(&self.work) {
            work.stop.cancel();
        }
    }
}

/// Marks the work as ended, also if its task panics.
struct Ending(Arc<Mutex<State>>);

impl Ending {
    fn end(&self, result: Result<BulkOutcome, Problem>) {
        let mut state = lock(&self.0);
        match result {
            Ok(outcome) => state.outcome = outcome,
            Err(problem) => state.outcome.error = Some(problem.detail.into_owned()),
        }
        state.ended = true;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if !state.ended {
            state.ended = true;
            state.outcome.error = Some("the log of the gateway says why".to_owned());
        }
    }
}

fn progress(action: Action, State { outcome, ended }: &State) -> Progress {
    let did = action.did();
    let done = match outcome.done {
        1 => format!("1 dead letter was {did}"),
        done => format!("{} dead letters were {did}", text::count(done)),
    };
    let done = match outcome.failed {
        0 => done,
        failed => format!("{done}, {} failed", text::count(failed)),
    };
    let text = match (&outcome.error, ended) {
        (_, false) => format!("Working: {done} so far."),
        (Some(error), true) if outcome.complete => format!("{done}. The last error: {error}."),
        (Some(error), true) => format!("Ended early: {done}. The reason: {error}."),
        (None, true) if outcome.complete => format!("{done}."),
        (None, true) => format!("Stopped: {done}."),
    };
    Progress {
        text,
        running: !ended,
        failed: *ended && outcome.error.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_says_what_was_done_and_what_failed() {
        let say = |done, failed, complete, error: Option<&str>, ended| {
            let outcome = BulkOutcome {
                done,
                failed,
                complete,
                error: error.map(ToOwned::to_owned),
                ..BulkOutcome::default()
            };
            let progress = progress(Action::Replay, &State { outcome, ended });
            (progress.text, progress.running, progress.failed)
        };
        let cases = [
            (
                say(0, 0, false, None, false),
                "Working: 0 dead letters were replayed so far.",
                (true, false),
            ),
            (
                say(1, 0, true, None, true),
                "1 dead letter was replayed.",
                (false, false),
            ),
            (
                say(2, 0, false, None, true),
                "Stopped: 2 dead letters were replayed.",
                (false, false),
            ),
            (
                say(3, 2, true, Some("no room"), true),
                "3 dead letters were replayed, 2 failed. The last error: no room.",
                (false, true),
            ),
            (
                say(3, 0, false, Some("no answer"), true),
                "Ended early: 3 dead letters were replayed. The reason: no answer.",
                (false, true),
            ),
        ];
        for ((text, running, failed), expected, flags) in cases {
            assert_eq!((text.as_str(), (running, failed)), (expected, flags));
        }
    }
}
