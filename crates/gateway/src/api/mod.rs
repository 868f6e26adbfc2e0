//! The HTTP API for programs, below `/v1`.

mod dead_letters;
mod dead_letters_bulk;
mod docs;
mod events;
mod hand_over;
mod jobs;
mod many;
mod openapi;
mod params;
mod schema;
mod submit;
mod system;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use crate::app::App;
use crate::problem::Problem;

/// All routes of the API.
pub(crate) fn router() -> Router<App> {
    Router::from(openapi::routes())
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(docs::docs))
}

/// Nothing is there.
pub(crate) async fn no_such_route() -> Problem {
    Problem::not_found("there is nothing at this path; the API is described at /docs")
}

/// Something is there, but not for this method.
pub(crate) async fn no_such_method() -> Problem {
    let text = "this path does not take this method; the API is described at /docs";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
}
