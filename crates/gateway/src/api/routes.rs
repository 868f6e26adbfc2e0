use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use super::{docs, openapi};
use crate::app::App;
use crate::http::Problem;

/// All routes of the API.
pub(crate) fn router() -> Router<App> {
    Router::from(openapi::routes())
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(docs::docs))
}

/// The answer for a path that does not exist.
pub(crate) async fn no_such_route() -> Problem {
    Problem::not_found("there is nothing at this path; the API is described at /docs")
}

/// The answer for a path that exists, but not for this method.
pub(crate) async fn no_such_method() -> Problem {
    let text = "this path does not take this method; the API is described at /docs";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
}
