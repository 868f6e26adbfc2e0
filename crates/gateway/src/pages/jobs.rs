//! The page of the durable jobs: fifty on a page, the last changed first.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use client::{Cursor, Listed, ManyAction};
use common::{JobId, JobState};
use serde::Deserialize;

use super::job_filter::JobFilter;
use super::job_id::not_an_id;
use super::layout::{Done, Layout};
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::{Choice, Moment, SubmitExample, text};

/// How many jobs are on a page.
const PAGE_SIZE: usize = 50;

/// The most characters of an error in a list.
const ERROR_LENGTH: usize = 160;

/// The other parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    id: String,
    cursor: String,
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    layout: Layout,
    id: String,
    which: JobFilter,
    states: Vec<Choice>,
    kinds: Vec<String>,
    filtered: bool,
    /// The address of the page that cancels all jobs that match; `None` if there is none.
    cancel: Option<String>,
    /// The address of the page that runs all jobs now that match and wait; `None` if there is none.
    run_now: Option<String>,
    wrong: Option<String>,
    rows: Vec<Row>,
    /// How many jobs were read, in words.
    looked_at: String,
    /// Whether no kind that matches was ever seen.
    unknown_kind: bool,
    example: SubmitExample,
    /// The filter as the query of an address.
    query: String,
    first: bool,
    next: Option<String>,
}

struct Row {
    id: JobId,
    kind: String,
    state: &'static str,
    tone: &'static str,
    at: Moment,
    next_at: Option<Moment>,
    attempt: u32,
    consumer: String,
    error: Option<String>,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Query(which): Query<JobFilter>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let id = asked.id.trim();
    let filter = which.filter();
    let which = which.tidy(filter.as_ref());
    let mut wrong = filter.as_ref().err().map(|error| format!("{error}."));
    if !id.is_empty() {
        match id.parse::<JobId>() {
            Ok(id) => return Ok(Redirect::to(&format!("/jobs/{id}")).into_response()),
            Err(_) => wrong = Some(not_an_id(id)),
        }
    }
    let cursor = match asked.cursor.as_str() {
        "" => None,
        cursor => Some(cursor.parse::<Cursor>().map_err(|_| {
            Problem::wrong("The address of this page is damaged; begin with the newest jobs.")
        })?),
    };
    let first = cursor.is_none();
    let filtered = !which.is_all() || wrong.is_some();
    // A search reads many jobs, so its page is not updated by itself.
    let every = if first && !filtered { 2 } else { 0 };
    let mut page = JobsPage {
        layout: Layout::new(&pages, "Jobs", "jobs")
            .live(every)
            .after(asked.done),
        id: text::cut(id, 64),
        states: JobState::stored()
            .map(|candidate| Choice {
                value: candidate.as_str(),
                label: candidate.as_str(),
                chosen: which.state == candidate.as_str(),
            })
            .collect(),
        kinds: known_kinds(&pages),
        filtered,
        cancel: None,
        run_now: None,
        rows: Vec::new(),
        looked_at: String::new(),
        example: SubmitExample::new(&pages.app.access, &headers),
        unknown_kind: false,
        query: which.query(),
        which,
        first,
        next: None,
        wrong,
    };
    if let (Ok(filter), None) = (filter, &page.wrong) {
        pages.app.check_nats()?;
        let client = &pages.app.nats.client;
        let found = client::list(client, &filter, cursor, PAGE_SIZE).await;
        let found = found.map_err(Problem::away)?;
        page.looked_at = match found.looked_at {
            1 => "1 job was read".to_owned(),
            more => format!("{} jobs were read", text::count(more as u64)),
        };
        page.next = found.next.map(|next| next.to_string());
        if let Some(kind) = &filter.kind
            && first
            && found.jobs.is_empty()
            && page.next.is_none()
        {
            let core = page.kinds.iter().any(|known| kind.matches(known));
            let known =
                core || (client::is_known_kind(client, kind).await).map_err(Problem::away)?;
            page.unknown_kind = !known;
        }
        let found_some = !found.jobs.is_empty() || page.next.is_some();
        let many = |action: ManyAction, path: &str| {
            let can_be_done = found_some && action.check(&filter).is_ok();
            can_be_done.then(|| format!("{path}?{}", page.query))
        };
        page.cancel = many(ManyAction::Cancel, "/jobs/cancel");
        page.run_now = many(ManyAction::RunNow, "/jobs/run-now");
        page.rows = found.jobs.into_iter().map(Row::of).collect();
    }
    html(&page)
}

/// The known kinds, as suggestions for the search.
fn known_kinds(pages: &Pages) -> Vec<String> {
    let seen = pages.history.borrow();
    let fleet = seen.fleet.iter().flat_map(|fleet| &fleet.kinds);
    let mut kinds: Vec<_> = fleet.map(|kind| kind.kind.clone()).collect();
    let queues = seen.queues.iter().flat_map(|all| &all.queues);
    kinds.extend(queues.map(|queue| queue.kind.to_string()));
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

impl Row {
    fn of(job: Listed) -> Self {
        Self {
            id: job.id,
            kind: job
                .kind
                .map_or_else(|| "-".to_owned(), |kind| kind.to_string()),
            state: job.state.as_str(),
            tone: text::tone(job.state),
            at: Moment::of(job.at),
            next_at: job
                .next_at
                .filter(|_| !job.state.is_final())
                .map(Moment::of),
            attempt: job.attempt,
            consumer: job.consumer.unwrap_or_else(|| "-".to_owned()),
            error: job.error.map(|error| {
                text::cut(&format!("{}: {}", error.code, error.message), ERROR_LENGTH)
            }),
        }
    }
}
