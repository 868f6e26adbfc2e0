//! Replays or discards many dead letters while the pages go on; one such work at a time.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use client::Which;
use client::dead_letters::Action;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Pages;
use super::dead::Chosen;
use super::form::Form;
use super::problem::Problem;
use super::text;
use crate::access::Operator;
use crate::bulk::FASTEST;

/// The work that was begun last.
#[derive(Clone)]
pub(crate) struct Bulk {
    work: Arc<Mutex<Option<Work>>>,
    shutdown: CancellationToken,
}

struct Work {
    action: Action,
    done: Arc<AtomicU64>,
    stop: CancellationToken,
    /// How it ended; nothing while it goes on.
    end: Arc<Mutex<Option<Result<(), String>>>>,
}

/// How far it is, for the page.
pub(crate) struct Progress {
    pub(crate) text: String,
    pub(crate) running: bool,
    pub(crate) failed: bool,
}

/// Which letters are meant, and how many a second. A field that is misspelt does not make it more
/// letters than were meant.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Meant {
    kind: String,
    reason: String,
    error: Option<String>,
    /// Needed where nothing else says which: all of them.
    all: bool,
    rate: Option<NonZeroU32>,
}

impl Meant {
    fn which(self) -> Result<(Which, Option<NonZeroU32>), Problem> {
        let chosen = Chosen {
            kind: self.kind,
            reason: self.reason,
            // Forms are sent with the line breaks of another time.
            error: self.error.map(|error| error.replace("\r\n", "\n")),
        };
        if chosen.is_all() != self.all {
            return Err(Problem::wrong(
                "The form does not say which dead letters are meant, or that all of them are.",
            ));
        }
        if self.rate.is_some_and(|rate| rate.get() > FASTEST) {
            return Err(Problem::wrong(format!(
                "The number of letters a second has to be {FASTEST} or less."
            )));
        }
        let which = chosen.which().map_err(Problem::wrong)?;
        Ok((which, self.rate))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced as a whole, so it is good even if somebody panicked meanwhile.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bulk {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            work: Arc::default(),
            shutdown,
        }
    }

    /// How far the work is that was begun last, if there was one.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let work = lock(&self.work);
        let work = work.as_ref()?;
        let done = match work.done.load(Ordering::Relaxed) {
            1 => "1 dead letter was".to_owned(),
            done => format!("{} dead letters were", text::count(done)),
        };
        let did = work.action.did();
        let end = lock(&work.end);
        Some(Progress {
            text: match &*end {
                None => format!("At work: {done} {did} so far."),
                Some(Ok(())) if work.stop.is_cancelled() => {
                    format!("Stopped; {done} {did}.")
                }
                Some(Ok(())) => format!("{done} {did}."),
                Some(Err(error)) => {
                    format!("{done} {did}; then it failed: {error}.")
                }
            },
            running: end.is_none(),
            failed: matches!(&*end, Some(Err(_))),
        })
    }

    fn begin(
        &self,
        pages: &Pages,
        action: Action,
        which: Which,
        rate: Option<NonZeroU32>,
        operator: &Operator,
    ) -> Result<(), Problem> {
        let mut slot = lock(&self.work);
        if slot.as_ref().is_some_and(|work| lock(&work.end).is_none()) {
            return Err(Problem::busy(
                "Dead letters are being replayed or discarded already: wait, or stop that first.",
            ));
        }
        let work = Work {
            action,
            done: Arc::default(),
            stop: self.shutdown.child_token(),
            end: Arc::default(),
        };
        let (done, stop, end) = (
            Arc::clone(&work.done),
            work.stop.clone(),
            Arc::clone(&work.end),
        );
        let client = pages.app.nats.client.clone();
        let pages = pages.clone();
        let by = Arc::clone(&operator.name);
        info!(%by, kind = ?which.kind, reason = ?which.reason, error = ?which.error, ?action, "began with many dead letters");
        *slot = Some(work);
        // However the task ends, it has ended.
        let ended = OnEnd(end);
        tokio::spawn(async move {
            let progress = |count| done.store(count, Ordering::Relaxed);
            let result = action
                .apply_to_all(&client, &which, rate, stop, progress)
                .await;
            pages.app.letters_changed();
            match result {
                Ok(count) => {
                    done.store(count, Ordering::Relaxed);
                    info!(count, %by, "dead letters {}", action.did());
                    ended.say(Ok(()));
                }
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        done = done.load(Ordering::Relaxed),
                        %by,
                        "work on many dead letters ended early"
                    );
                    ended.say(Err(format!("{error:#}")));
                }
            }
        });
        Ok(())
    }
}

/// Says that the work has ended, also if it panicked.
struct OnEnd(Arc<Mutex<Option<Result<(), String>>>>);

impl OnEnd {
    fn say(&self, end: Result<(), String>) {
        *lock(&self.0) = Some(end);
    }
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        lock(&self.0).get_or_insert_with(|| Err("the log says why".to_owned()));
    }
}

pub(crate) async fn replay(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Form(meant): Form<Meant>,
) -> Result<Response, Problem> {
    if meant.rate.is_none() {
        return Err(Problem::wrong(
            "The number of letters a second has to be said.",
        ));
    }
    begin(&pages, Action::Replay, meant, &operator)
}

pub(crate) async fn discard(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Form(meant): Form<Meant>,
) -> Result<Response, Problem> {
    begin(&pages, Action::Discard, meant, &operator)
}

fn begin(
    pages: &Pages,
    action: Action,
    meant: Meant,
    operator: &Operator,
) -> Result<Response, Problem> {
    let (which, rate) = meant.which()?;
    pages.app.check_nats()?;
    pages.bulk.begin(pages, action, which, rate, operator)?;
    Ok(Redirect::to("/dead").into_response())
}

/// Stops the work that goes on.
pub(crate) async fn stop(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
) -> Redirect {
    if let Some(work) = &*lock(&pages.bulk.work) {
        work.stop.cancel();
        info!(by = %operator.name, "stopped the work on many dead letters");
    }
    Redirect::to("/dead")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(form: &str) -> Result<(Which, Option<NonZeroU32>), ()> {
        let meant: Meant = serde_urlencoded::from_str(form).map_err(drop)?;
        meant.which().map_err(drop)
    }

    #[test]
    fn a_form_that_is_empty_or_misspelt_does_not_mean_all_letters() {
        for form in [
            "",
            "kind=&reason=",
            "knd=sleep",
            "all=false",
            "all=1",
            "all=true&kind=sleep",
            "all=true&error=",
            "kind=a..b",
            "reason=because",
            "all=true&rate=0",
            "all=true&rate=100001",
            "all=true&rate=4294967295",
        ] {
            assert!(meant(form).is_err(), "{form}");
        }
        let (which, rate) = meant("all=true&rate=100000").unwrap();
        assert!(which.kind.is_none() && which.reason.is_none() && which.error.is_none());
        assert_eq!(rate.map(NonZeroU32::get), Some(100_000));
        assert!(meant("kind=sleep").unwrap().0.kind.is_some());
    }

    #[test]
    fn a_message_is_meant_to_the_letter_also_if_it_is_empty() {
        let error = |form: &str| meant(form).unwrap().0.error;
        assert_eq!(error("error=").as_deref(), Some(""));
        assert_eq!(error("error=+a%0D%0Ab+").as_deref(), Some(" a\nb "));
        assert_eq!(error("kind=sleep&reason="), None);
    }
}
