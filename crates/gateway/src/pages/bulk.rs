//! Replays or discards many dead letters while the pages go on; one such work at a time.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Form, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use durable::{Which, dead};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Pages;
use super::dead::Chosen;
use super::problem::Problem;
use super::text;

/// The work that was begun last.
#[derive(Clone)]
pub(crate) struct Bulk {
    work: Arc<Mutex<Option<Work>>>,
    shutdown: CancellationToken,
}

struct Work {
    verb: Verb,
    done: Arc<AtomicU64>,
    stop: CancellationToken,
    /// How it ended; nothing while it goes on.
    end: Arc<Mutex<Option<Result<(), String>>>>,
}

#[derive(Clone, Copy)]
enum Verb {
    Replay,
    Discard,
}

/// How far it is, for the page.
pub(crate) struct Progress {
    pub(crate) text: String,
    pub(crate) running: bool,
    pub(crate) failed: bool,
}

/// Which letters are replayed, and how many a second.
#[derive(Debug, Deserialize)]
pub(crate) struct AtARate {
    #[serde(flatten)]
    chosen: Chosen,
    // A flattened form has nothing but text.
    rate: String,
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
        let did = match work.verb {
            Verb::Replay => "replayed",
            Verb::Discard => "discarded",
        };
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
        verb: Verb,
        which: Which,
        rate: Option<NonZeroU32>,
    ) -> Result<(), Problem> {
        let mut slot = lock(&self.work);
        if slot.as_ref().is_some_and(|work| lock(&work.end).is_none()) {
            return Err(Problem::busy(
                "Dead letters are being replayed or discarded already: wait, or stop that first.",
            ));
        }
        let work = Work {
            verb,
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
        *slot = Some(work);
        // However the task ends, it has ended.
        let ended = OnEnd(end);
        let work = async move || {
            let progress = |count| done.store(count, Ordering::Relaxed);
            let result = match verb {
                Verb::Replay => dead::replay_all(&client, &which, rate, stop, progress).await,
                Verb::Discard => dead::discard_all(&client, &which, rate, stop, progress).await,
            };
            match result {
                Ok(count) => {
                    done.store(count, Ordering::Relaxed);
                    match verb {
                        Verb::Replay => info!(count, "dead letters replayed"),
                        Verb::Discard => info!(count, "dead letters discarded"),
                    }
                    ended.say(Ok(()));
                }
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "work on many dead letters ended early"
                    );
                    ended.say(Err(format!("{error:#}")));
                }
            }
        };
        // The compiler cannot see that this work may move between threads, so it gets one of its
        // own; there is one such work at a time.
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(work()));
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
    Form(asked): Form<AtARate>,
) -> Result<Response, Problem> {
    let rate: NonZeroU32 = asked
        .rate
        .trim()
        .parse()
        .map_err(|_| Problem::wrong("The number of letters a second has to be 1 or more."))?;
    begin(&pages, Verb::Replay, &asked.chosen, Some(rate))
}

pub(crate) async fn discard(
    State(pages): State<Pages>,
    Form(chosen): Form<Chosen>,
) -> Result<Response, Problem> {
    begin(&pages, Verb::Discard, &chosen, None)
}

fn begin(
    pages: &Pages,
    verb: Verb,
    chosen: &Chosen,
    rate: Option<NonZeroU32>,
) -> Result<Response, Problem> {
    let which = chosen.which().map_err(Problem::wrong)?;
    pages.bulk.begin(pages, verb, which, rate)?;
    Ok(Redirect::to("/dead").into_response())
}

/// Stops the work that goes on.
pub(crate) async fn stop(State(pages): State<Pages>) -> Redirect {
    if let Some(work) = &*lock(&pages.bulk.work) {
        work.stop.cancel();
    }
    Redirect::to("/dead")
}
