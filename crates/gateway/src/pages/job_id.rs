use common::JobId;

use super::problem::Problem;
use super::widgets::text;

/// Reads the id of a job in an address.
///
/// # Errors
/// When it is no id.
pub(super) fn parse_id(id: &str) -> Result<JobId, Problem> {
    let parsed = id.trim().parse();
    parsed.map_err(|_| Problem::not_found(not_an_id(id)))
}

/// Says that a text is no id.
pub(super) fn not_an_id(text: &str) -> String {
    format!(
        "{:?} is not the id of a job: it is a UUID.",
        text::cut(text, 64)
    )
}
