use axum::Router;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_extractor_with_state, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use super::assets::asset;
use super::problem::Problem;
use super::state::Pages;
use super::{
    consumers, dead_letter, dead_letters, dead_letters_bulk, dead_letters_confirm, history, job,
    jobs, jobs_bulk, kinds, live, overview, schedules, sign_in,
};
use crate::app::App;
use crate::auth::{Operator, Reader};

/// The files that pages load.
pub(crate) fn asset_routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{name}", get(asset))
}

/// All pages. From now until the shutdown, a background task watches the system for them.
pub(crate) fn router(app: &App) -> Router<App> {
    let (history, feed) = history::watch(app.clone());
    let pages = Pages::new(app, history, feed);
    let readers = Router::new()
        .route("/", get(overview::page))
        .route("/consumers", get(consumers::page))
        .route("/jobs", get(jobs::page))
        .route("/jobs/{id}", get(job::page))
        .route("/schedules", get(schedules::page))
        .route("/dead", get(dead_letters::page))
        .route("/dead/{id}", get(dead_letter::page))
        .route_layer(from_fn_with_state(pages.clone(), refresh_dead_letter_count))
        .route("/live", get(live::live))
        .route_layer(from_extractor_with_state::<Reader, App>(app.clone()));
    let replay_all = get(dead_letters_confirm::replay).post(dead_letters_bulk::replay);
    let discard_all = get(dead_letters_confirm::discard).post(dead_letters_bulk::discard);
    let cancel_jobs = get(jobs_bulk::confirm_cancel).post(jobs_bulk::cancel);
    let run_jobs_now = get(jobs_bulk::confirm_run_now).post(jobs_bulk::run_now);
    let operators = Router::new()
        .route("/jobs/cancel", cancel_jobs)
        .route("/jobs/{id}/cancel", post(job::cancel))
        .route("/jobs/run-now", run_jobs_now)
        .route("/jobs/{id}/run-now", post(job::run_now))
        .route("/kinds/{kind}/pause", post(kinds::pause))
        .route("/kinds/{kind}/resume", post(kinds::resume))
        .route("/kinds/=all/pause", post(kinds::pause_all))
        .route("/kinds/=all/resume", post(kinds::resume_all))
        .route("/kinds/{kind}/priorities", post(kinds::heed_priorities))
        .route("/schedules/{name}/pause", post(schedules::pause))
        .route("/schedules/{name}/resume", post(schedules::resume))
        .route("/schedules/{name}/run", post(schedules::run))
        .route("/schedules/{name}/delete", post(schedules::delete))
        .route("/dead/replay", replay_all)
        .route("/dead/discard", discard_all)
        .route("/dead/stop", post(dead_letters_bulk::stop))
        .route("/dead/{id}/replay", post(dead_letter::replay))
        .route("/dead/{id}/discard", post(dead_letter::discard))
        .route_layer(from_fn_with_state(app.clone(), operators_only));
    let everybody = Router::new()
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out));
    readers.merge(operators).merge(everybody).with_state(pages)
}

/// After a replay or a discard, shows the new number of dead letters and not the one before.
async fn refresh_dead_letter_count(
    State(pages): State<Pages>,
    request: Request,
    next: Next,
) -> Response {
    pages.feed.refresh_dead_letters(&pages.app).await;
    next.run(request).await
}

/// Lets only operators pass, and shows others a page that says so.
async fn operators_only(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match Operator::from_request_parts(&mut parts, &app).await {
        Ok(operator) => {
            // For the log: it names whoever does something.
            parts.extensions.insert(operator);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(denied) if denied.status == StatusCode::FORBIDDEN => {
            Problem::not_allowed().into_response()
        }
        Err(denied) => denied.into_response(),
    }
}
