//! Tells the pages in browsers that there is a new snapshot; the pages then fetch themselves again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use super::problem::Problem;
use super::state::Pages;
use crate::auth::Scope;

/// How often a comment is sent, so that no proxy takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream of Server-Sent Events, one for each new snapshot. It ends when the gateway stops, or the token
/// is withdrawn.
pub(crate) async fn live(
    State(pages): State<Pages>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grant = pages.app.access.grant(&headers, Scope::Read)?;
    let Ok(permit) = pages.viewers.clone().try_acquire_owned() else {
        return Err(Problem::busy("Too many browsers are watching."));
    };
    let mut history = pages.history.clone();
    let shutdown = pages.app.context.shutdown.clone();
    history.mark_unchanged();
    let news = stream::unfold(
        (history, shutdown, grant, permit),
        |(mut history, shutdown, mut grant, permit)| async {
            // A slow viewer gets only the newest: there is no queue that could grow.
            tokio::select! {
                changed = history.changed() => changed.ok()?,
                () = grant.withdrawn() => return None,
                () = shutdown.cancelled() => return None,
            }
            let at = history.borrow_and_update().at;
            let event = Event::default().data(at.map(|at| at.to_string()).unwrap_or_default());
            Some((
                Ok::<_, Infallible>(event),
                (history, shutdown, grant, permit),
            ))
        },
    );
    let news = Sse::new(news).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(news.into_response())
}
