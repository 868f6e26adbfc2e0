//! The page of one job: its whole life.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use common::{Job, JobId, JobRecord, JobState};
use serde::Deserialize;
use tracing::info;

use super::Pages;
use super::frame::{Done, Frame, html};
use super::life::{self, Event};
use super::problem::Problem;
use super::text::{self, Moment};
use crate::access::Operator;

/// The longest payload or result that is shown.
const LONGEST: usize = 64 << 10;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "job.html")]
pub(crate) struct JobPage {
    frame: Frame,
    id: JobId,
    kind: String,
    state: &'static str,
    tone: &'static str,
    is_final: bool,
    has_letter: bool,
    at: Moment,
    attempt: u32,
    consumer: Option<String>,
    next_at: Option<Moment>,
    duration: Option<String>,
    reason: Option<&'static str>,
    /// That of a job that has not ended, or all of a message that is no job.
    payload: Option<String>,
    result: Option<String>,
    events: Vec<Event>,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    pages.app.check_nats()?;
    let found = client::look_up(&pages.app.nats.client, id).await;
    let record = found.map_err(Problem::away)?;
    let record = record.ok_or_else(|| Problem::not_found(format!("Nobody knows job {id}.")))?;
    let message = client::message(&pages.app.nats.client, &record).await;
    let message = message.map_err(Problem::away)?;
    let frame = Frame::new(&pages, "", "jobs");
    let mut page = JobPage::of(frame, record, message.as_deref());
    page.frame = page.frame.after(asked.done);
    html(&page)
}

impl JobPage {
    /// The page of a job, and of its message if it has not ended.
    pub(crate) fn of(frame: Frame, record: JobRecord, message: Option<&[u8]>) -> Self {
        let kind = record
            .kind
            .as_ref()
            .map_or_else(|| "unreadable".to_owned(), ToString::to_string);
        // What has ended does not change any more, unless it is replayed.
        let every = if record.state.is_final() { 3 } else { 1 };
        Self {
            frame: frame
                .titled(format!("{kind} · {}", record.state))
                .live(every),
            id: record.id,
            kind,
            state: record.state.as_str(),
            tone: text::tone(record.state),
            is_final: record.state.is_final(),
            has_letter: record.state == JobState::Dead && !record.is_discarded(),
            at: Moment::of(record.at),
            attempt: record.attempt,
            next_at: record
                .next_at
                .filter(|_| !record.state.is_final())
                .map(Moment::of),
            duration: record.duration_ms.map(text::milliseconds),
            reason: record.reason.map(text::reason),
            payload: message.map(payload),
            result: record.result.as_ref().map(|result| shown(result.get())),
            events: life::of_record(&record),
            consumer: record.consumer,
        }
    }
}

/// The payload in a message, or the message if it is no job.
fn payload(message: &[u8]) -> String {
    match Job::decode(message) {
        Ok(job) => shown(job.payload.map_or("null", serde_json::value::RawValue::get)),
        Err(_) => text::cut(&String::from_utf8_lossy(message), LONGEST),
    }
}

/// JSON for people, cut if it is long.
fn shown(json: &str) -> String {
    if json.len() > LONGEST {
        text::cut(json, LONGEST)
    } else {
        text::pretty(json)
    }
}

/// Asks that a job be cancelled, and shows it.
pub(crate) async fn cancel(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    pages.app.check_nats()?;
    let asked = client::cancel(&pages.app.nats.client, id).await;
    asked.map_err(|error| Problem::not_done(&error.into()))?;
    info!(job.id = %id, by = %operator.name, "asked that a job be cancelled");
    Ok(Redirect::to(&Done::CancelAsked.of_job(id)).into_response())
}

/// The id of a job in an address.
pub(crate) fn parse(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|_| {
        Problem::not_found(format!(
            "{:?} is not the id of a job: it is a UUID.",
            text::cut(id, 64)
        ))
    })
}
