//! The page of the durable jobs: fifty at a time, what changed last first.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use client::{Cursor, Filter, Listed};
use common::{JobId, JobKind, JobState};
use serde::Deserialize;

use super::Pages;
use super::frame::{Frame, html};
use super::problem::Problem;
use super::text::{self, Moment};

/// How many are on a page.
const PAGE: usize = 50;

/// How much of an error is in a list.
const ERROR_LENGTH: usize = 160;

/// The states in the order of a job's life.
const STATES: [JobState; 8] = [
    JobState::Scheduled,
    JobState::Queued,
    JobState::Running,
    JobState::Retrying,
    JobState::Succeeded,
    JobState::Dead,
    JobState::Cancelled,
    JobState::Expired,
];

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    id: String,
    state: String,
    kind: String,
    cursor: String,
}

/// One choice of several.
pub(crate) struct Choice {
    pub(crate) value: &'static str,
    pub(crate) label: &'static str,
    pub(crate) chosen: bool,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    frame: Frame,
    id: String,
    kind: String,
    states: Vec<Choice>,
    kinds: Vec<String>,
    filtered: bool,
    wrong: Option<String>,
    rows: Vec<Row>,
    looked_at: String,
    entry: Entry,
    /// The address of the first page.
    base: String,
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
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let (id, kind) = (asked.id.trim(), asked.kind.trim());
    let mut wrong = None;
    if !id.is_empty() {
        match id.parse::<JobId>() {
            Ok(id) => return Ok(Redirect::to(&format!("/jobs/{id}")).into_response()),
            Err(_) => {
                wrong = Some(format!(
                    "{:?} is not the id of a job: it is a UUID.",
                    text::cut(id, 64)
                ));
            }
        }
    }
    let state = STATES
        .into_iter()
        .find(|state| state.as_str() == asked.state);
    let filter = Filter {
        state,
        kind: match kind {
            "" => None,
            kind => kind
                .parse::<JobKind>()
                .map_err(|error| wrong = Some(format!("{error}.")))
                .ok(),
        },
    };
    let cursor = match asked.cursor.as_str() {
        "" => None,
        cursor => Some(cursor.parse::<Cursor>().map_err(|_| {
            Problem::wrong("The address of this page is damaged; begin with the newest jobs.")
        })?),
    };
    let first = cursor.is_none();
    let filtered = filter.state.is_some() || filter.kind.is_some() || wrong.is_some();
    // Where jobs have to be searched for, the page is not made anew by itself.
    let every = if first && !filtered { 2 } else { 0 };
    let mut page = JobsPage {
        frame: Frame::new(&pages, "Jobs", "jobs").live(every),
        id: text::cut(id, 64),
        kind: text::cut(kind, JobKind::MAX_LEN),
        states: STATES
            .map(|candidate| Choice {
                value: candidate.as_str(),
                label: candidate.as_str(),
                chosen: state == Some(candidate),
            })
            .into(),
        kinds: known_kinds(&pages),
        filtered,
        rows: Vec::new(),
        looked_at: String::new(),
        entry: Entry::of(&pages, &headers),
        base: format!(
            "/jobs?state={}&kind={}",
            filter.state.map_or("", JobState::as_str),
            filter.kind.as_ref().map_or("", JobKind::as_str),
        ),
        first,
        next: None,
        wrong,
    };
    if page.wrong.is_none() {
        pages.app.check_nats()?;
        let found = client::list(&pages.app.nats.client, &filter, cursor, PAGE).await;
        let found = found.map_err(Problem::away)?;
        page.rows = found.jobs.into_iter().map(Row::of).collect();
        page.looked_at = text::count(found.looked_at as u64);
        page.next = found.next.map(|next| next.to_string());
    }
    html(&page)
}

/// Kinds that the fleet has met, to choose from.
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

/// Where and how a program hands jobs over: for lines that are copied into a terminal.
pub(crate) struct Entry {
    /// Without a path.
    pub(crate) url: String,
    pub(crate) needs_token: bool,
}

impl Entry {
    pub(crate) fn of(pages: &Pages, headers: &HeaderMap) -> Self {
        let access = &pages.app.access;
        let scheme = if access.does_tls() { "https" } else { "http" };
        Self {
            url: format!("{scheme}://{}", host(headers)),
            needs_token: access.needs_token(),
        }
    }
}

/// Where this browser has found the gateway. A browser cannot be made to send another; what else
/// sends one that is odd gets a placeholder.
fn host(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let plain = |host: &&str| {
        !host.is_empty()
            && host.len() < 256
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    host.filter(plain).unwrap_or("127.0.0.1:8080").to_owned()
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
