//! The dashboard for people: pages that the server renders, and that a small script keeps fresh.

mod assets;
mod bulk;
mod chart;
mod confirm;
mod consumers;
mod dead;
mod figures;
mod form;
mod frame;
mod groups;
mod history;
mod job;
mod jobs;
mod letter;
mod life;
mod live;
mod overview;
mod problem;
mod shown;
mod sign_in;
#[cfg(test)]
mod tests;
mod text;

use axum::Router;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_extractor_with_state, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use crate::access::{Operator, Reader};
use crate::app::App;
use bulk::Bulk;
pub(crate) use frame::{Frame, html};
use groups::Groups;
use history::History;
use live::Seats;
use problem::Problem;
pub(crate) use problem::instead;
use shown::Shown;

/// What the pages can use. Clones share it.
#[derive(Clone)]
pub(crate) struct Pages {
    app: App,
    history: History,
    seats: Seats,
    bulk: Bulk,
    groups: Groups,
    shown: Shown,
}

/// What pages load.
pub(crate) fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{name}", get(assets::asset))
}

/// All pages. From now on the system is looked at, until the gateway stops.
pub(crate) fn router(app: &App) -> Router<App> {
    let (history, shown) = history::watch_over(app.clone());
    let pages = Pages {
        app: app.clone(),
        history,
        seats: Seats::default(),
        bulk: Bulk::new(app.context.shutdown.clone()),
        groups: Groups::default(),
        shown,
    };
    let seen = Router::new()
        .route("/", get(overview::page))
        .route("/consumers", get(consumers::page))
        .route("/jobs", get(jobs::page))
        .route("/jobs/{id}", get(job::page))
        .route("/dead", get(dead::page))
        .route("/dead/{id}", get(letter::page))
        .route_layer(from_fn_with_state(pages.clone(), count_anew))
        .route("/live", get(live::live))
        .route_layer(from_extractor_with_state::<Reader, App>(app.clone()));
    let driven = Router::new()
        .route("/jobs/{id}/cancel", post(job::cancel))
        .route("/dead/replay", get(confirm::replay).post(bulk::replay))
        .route("/dead/discard", get(confirm::discard).post(bulk::discard))
        .route("/dead/stop", post(bulk::stop))
        .route("/dead/{id}/replay", post(letter::replay))
        .route("/dead/{id}/discard", post(letter::discard))
        .route_layer(from_fn_with_state(app.clone(), operators_only));
    let open = Router::new()
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out));
    seen.merge(driven).merge(open).with_state(pages)
}

/// Whoever has just replayed or discarded letters is not shown how many there were before.
async fn count_anew(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    pages.shown.refresh_dead(&pages.app).await;
    next.run(request).await
}

/// Lets those through who may cancel, replay and discard, and tells the others so on a page.
async fn operators_only(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match Operator::from_request_parts(&mut parts, &app).await {
        Ok(operator) => {
            // Whatever is done then stands in the log with a name.
            parts.extensions.insert(operator);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(denied) if denied.status == StatusCode::FORBIDDEN => {
            Problem::not_allowed().into_response()
        }
        Err(denied) => denied.into_response(),
    }
}
