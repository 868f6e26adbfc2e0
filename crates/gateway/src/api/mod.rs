//! The HTTP API for programs, below `/v1`.

use axum::Router;

use crate::app::App;

/// All routes of the API.
pub(crate) fn router() -> Router<App> {
    Router::new()
}
