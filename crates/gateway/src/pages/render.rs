use askama::Template;
use axum::response::{Html, IntoResponse as _, Response};

use super::problem::Problem;

/// Renders a page.
///
/// # Errors
/// When the template fails, which it does not.
pub(crate) fn html(page: &impl Template) -> Result<Response, Problem> {
    let html = page.render().map_err(Problem::unexpected)?;
    Ok(Html(html).into_response())
}
