//! The dashboard for people.

use axum::Router;

use crate::app::App;

/// All pages, and what they load.
pub(crate) fn router() -> Router<App> {
    Router::new()
}
