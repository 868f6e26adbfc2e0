//! The page that asks for confirmation before many dead letters are replayed or discarded. It needs no
//! script.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use client::dead_letters;

use super::dead_letter_filter::DeadLetterFilter;
use super::layout::Layout;
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::text;

/// The most dead letters that are counted; if there are more, the page says so.
const MAX_COUNTED: usize = 10_000;

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    layout: Layout,
    question: &'static str,
    consequence: &'static str,
    button: &'static str,
    action: &'static str,
    replay: bool,
    count: String,
    reason: &'static str,
    query: String,
    which: DeadLetterFilter,
}

pub(crate) async fn replay(
    pages: State<Pages>,
    filter: Query<DeadLetterFilter>,
) -> Result<Response, Problem> {
    confirm(pages, filter, true).await
}

pub(crate) async fn discard(
    pages: State<Pages>,
    filter: Query<DeadLetterFilter>,
) -> Result<Response, Problem> {
    confirm(pages, filter, false).await
}

async fn confirm(
    State(pages): State<Pages>,
    Query(filter): Query<DeadLetterFilter>,
    replay: bool,
) -> Result<Response, Problem> {
    let which = filter.which().map_err(Problem::wrong)?;
    pages.app.check_nats()?;
    let client = &pages.app.nats.client;
    let groups = dead_letters::groups(client, &which, MAX_COUNTED).await;
    let groups = groups.map_err(Problem::away)?;
    let count = text::count(groups.groups.iter().map(|group| group.count).sum());
    let (question, consequence, button, action) = if replay {
        (
            "Replay these dead letters?",
            "Each job is queued again as it was submitted, and its attempts begin at 1 again. Dead \
             letters that come later are not touched.",
            "Replay them",
            "/dead/replay",
        )
    } else {
        (
            "Discard these dead letters?",
            "They are removed for good. The records of their jobs stay for a week. Dead letters that \
             come later are not touched.",
            "Discard them for good",
            "/dead/discard",
        )
    };
    html(&ConfirmPage {
        layout: Layout::new(&pages, question, "dead"),
        question,
        consequence,
        button,
        action,
        replay,
        count: if groups.complete {
            count
        } else {
            format!("more than {count}")
        },
        reason: filter.reason(),
        query: filter.query(),
        which: filter,
    })
}
