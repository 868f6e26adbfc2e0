//! Asks once more before many letters are replayed or discarded. It needs no script.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use client::dead_letters;

use super::Pages;
use super::dead::Chosen;
use super::frame::{Frame, html};
use super::problem::Problem;
use super::text;

/// How many letters are counted; beyond it the page says that there are more.
const COUNTED: usize = 10_000;

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    frame: Frame,
    question: &'static str,
    consequence: &'static str,
    button: &'static str,
    action: &'static str,
    replay: bool,
    count: String,
    reason: &'static str,
    query: String,
    which: Chosen,
}

pub(crate) async fn replay(
    pages: State<Pages>,
    chosen: Query<Chosen>,
) -> Result<Response, Problem> {
    confirm(pages, chosen, true).await
}

pub(crate) async fn discard(
    pages: State<Pages>,
    chosen: Query<Chosen>,
) -> Result<Response, Problem> {
    confirm(pages, chosen, false).await
}

async fn confirm(
    State(pages): State<Pages>,
    Query(chosen): Query<Chosen>,
    replay: bool,
) -> Result<Response, Problem> {
    let which = chosen.which().map_err(Problem::wrong)?;
    pages.app.check_nats()?;
    let client = &pages.app.nats.client;
    let groups = dead_letters::groups(client, &which, COUNTED).await;
    let groups = groups.map_err(Problem::away)?;
    let count = text::count(groups.groups.iter().map(|group| group.count).sum());
    let (question, consequence, button, action) = if replay {
        (
            "Replay these dead letters?",
            "Each job is queued again as it was submitted, and its attempts are counted anew. \
             Letters that come later are left alone.",
            "Replay them",
            "/dead/replay",
        )
    } else {
        (
            "Discard these dead letters?",
            "They are removed for good. The records of their jobs stay for a week. Letters that \
             come later are left alone.",
            "Discard them for good",
            "/dead/discard",
        )
    };
    html(&ConfirmPage {
        frame: Frame::new(&pages, question, "dead"),
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
        reason: chosen.reason(),
        query: chosen.query(),
        which: chosen,
    })
}
