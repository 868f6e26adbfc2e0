//! Tells the pages in browsers that there is news; they fetch what they show by themselves.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::Semaphore;

use super::Pages;
use super::problem::Problem;
use crate::scope::Scope;

/// The most viewers at a time; more of them can still reload.
const MOST_VIEWERS: usize = 500;

/// Says something in between, so that nobody on the way takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many viewers there may still be.
#[derive(Clone)]
pub(crate) struct Seats(Arc<Semaphore>);

impl Default for Seats {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_VIEWERS)))
    }
}

/// A stream of Server-Sent Events, one for each time that the system was looked at. It ends when
/// the gateway stops, or the viewer may not look any more.
pub(crate) async fn live(
    State(pages): State<Pages>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grant = pages.app.access.grant(&headers, Scope::Read)?;
    let Ok(seat) = pages.seats.0.clone().try_acquire_owned() else {
        return Err(Problem::busy("as many browsers as can be are watching"));
    };
    let mut history = pages.history.clone();
    let shutdown = pages.app.context.shutdown.clone();
    history.mark_unchanged();
    let news = stream::unfold(
        (history, shutdown, grant, seat),
        |(mut history, shutdown, mut grant, seat)| async {
            // A viewer who is slow gets the newest only: there is no queue that could grow.
            tokio::select! {
                changed = history.changed() => changed.ok()?,
                () = grant.withdrawn() => return None,
                () = shutdown.cancelled() => return None,
            }
            let at = history.borrow_and_update().at;
            let event = Event::default().data(at.map(|at| at.to_string()).unwrap_or_default());
            Some((Ok::<_, Infallible>(event), (history, shutdown, grant, seat)))
        },
    );
    let news = Sse::new(news).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(news.into_response())
}
