//! The page of the dead letters: groups by error, then the dead letters, fifty on a page, the newest
//! first.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use client::dead_letters::{self, Cursor};
use common::{DeadReason, JobId};
use serde::Deserialize;

use super::bulk_slot::Progress;
use super::dead_letter_filter::{DeadLetterFilter, NO_ERROR};
use super::layout::{Done, Layout};
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::{Choice, Moment, text};

/// How many dead letters are on a page.
const PAGE_SIZE: usize = 50;

/// The most groups on the page.
const MAX_GROUPS: usize = 50;

/// The most characters of an error in a list.
const ERROR_LENGTH: usize = 160;

/// The other parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    cursor: String,
    /// The message that a person has typed into the search form; empty is any message.
    message: String,
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct DeadLettersPage {
    layout: Layout,
    which: DeadLetterFilter,
    reasons: Vec<Choice>,
    filtered: bool,
    wrong: Option<String>,
    bulk: Option<Progress>,
    groups: Vec<Group>,
    groups_caption: String,
    rows: Vec<Row>,
    /// The filter as the query of an address.
    query: String,
    first: bool,
    next: Option<String>,
}

struct Group {
    message: String,
    code: String,
    kind: String,
    reason: &'static str,
    count: String,
    newest: Moment,
    oldest: Moment,
    query: String,
}

struct Row {
    id: JobId,
    kind: String,
    reason: &'static str,
    at: Moment,
    attempts: usize,
    error: Option<String>,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Query(mut filter): Query<DeadLetterFilter>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    if !asked.message.is_empty() {
        filter.error = Some(asked.message);
    }
    pages.app.check_nats()?;
    let client = &pages.app.nats.client;
    let cursor = match asked.cursor.as_str() {
        "" => None,
        cursor => Some(cursor.parse::<Cursor>().map_err(|_| {
            Problem::wrong(
                "The address of this page is damaged; begin with the newest dead letters.",
            )
        })?),
    };
    let first = cursor.is_none();
    let which = filter.which();
    let filtered = !filter.is_all();
    let mut page = DeadLettersPage {
        // Grouping reads many dead letters, so the page is updated less often.
        layout: Layout::new(&pages, "Dead letters", "dead")
            .live(if first && !filtered { 3 } else { 0 })
            .after(asked.done),
        query: filter.query(),
        reasons: DeadReason::ALL
            .map(|reason| Choice {
                value: reason.as_str(),
                label: text::reason(reason),
                chosen: reason.as_str() == filter.reason,
            })
            .into(),
        filtered,
        wrong: which.as_ref().err().map(|error| format!("{error}.")),
        which: filter,
        bulk: pages.bulk.progress(),
        groups: Vec::new(),
        groups_caption: String::new(),
        rows: Vec::new(),
        first,
        next: None,
    };
    if let Ok(which) = which {
        let found = dead_letters::newest(client, &which, cursor, PAGE_SIZE).await;
        let found = found.map_err(Problem::away)?;
        page.rows = found.letters.iter().map(Row::of).collect();
        page.next = found.next.map(|next| next.to_string());
        if first && !filtered && page.next.is_none() {
            page.layout.count_dead_letters(page.rows.len() as u64);
        }
        if first && !filtered && !page.rows.is_empty() {
            let found = pages.groups.of_all(&pages.app).await;
            let found = found.map_err(Problem::away)?;
            if found.complete && page.next.is_some() {
                page.layout.count_dead_letters(found.looked_at);
            }
            let looked_at = text::count(found.looked_at);
            page.groups_caption = match (found.complete, found.groups.len()) {
                (true, ..=MAX_GROUPS) => format!("All {looked_at} dead letters"),
                (true, _) => {
                    format!("The {MAX_GROUPS} largest groups of all {looked_at} dead letters")
                }
                (false, _) => {
                    format!("The newest {looked_at} dead letters, in at most {MAX_GROUPS} groups")
                }
            };
            let largest = found.groups.iter().take(MAX_GROUPS);
            page.groups = largest.map(Group::of).collect();
        }
    }
    let counted = pages.history.borrow().dead_letters.unwrap_or(0);
    if first && !filtered && page.layout.dead_letters != Layout::badge(counted) {
        // The other pages follow with the next snapshot.
        pages.feed.invalidate_dead_letters().await;
    }
    html(&page)
}

impl Group {
    fn of(group: &dead_letters::Group) -> Self {
        let filter = DeadLetterFilter {
            kind: group.kind.to_string(),
            reason: group.reason.map_or("", DeadReason::as_str).to_owned(),
            error: Some(group.message.clone()),
        };
        Self {
            message: if group.message.is_empty() {
                NO_ERROR.to_owned()
            } else {
                group.message.clone()
            },
            code: group.code.clone(),
            query: filter.query(),
            kind: filter.kind,
            reason: group.reason.map_or("-", text::reason),
            count: text::count(group.count),
            newest: Moment::of(group.newest),
            oldest: Moment::of(group.oldest),
        }
    }
}

impl Row {
    fn of(letter: &dead_letters::Summary) -> Self {
        Self {
            id: letter.id,
            kind: letter.kind.to_string(),
            reason: letter.reason.map_or("-", text::reason),
            at: Moment::of(letter.at),
            attempts: letter.attempts,
            error: letter.error.as_ref().map(|error| {
                text::cut(&format!("{}: {}", error.code, error.message), ERROR_LENGTH)
            }),
        }
    }
}
