//! The HTTP API for programs, below `/v1`.

use axum::Router;
use axum::http::StatusCode;

use crate::app::App;
use crate::problem::Problem;

/// All routes of the API.
pub(crate) fn router() -> Router<App> {
    Router::new()
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
