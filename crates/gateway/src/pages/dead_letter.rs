//! The page of one dead letter: shows it, and replays or discards it.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use bytes::Bytes;
use client::{DeadLetter, Replayed, dead_letters};
use common::{JobId, JobMessage, check_portable};
use serde::Deserialize;
use tracing::info;

use super::form::{Form, LARGE};
use super::job_id::parse_id;
use super::layout::{Done, Layout};
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::timeline::{self, Event};
use super::widgets::{Moment, json, text};
use crate::auth::Operator;

/// The most bytes of a payload that can be edited: far more than a person corrects by hand.
const MAX_EDITED: usize = 256 << 10;

/// The most bytes of the message that are shown.
const MAX_SHOWN: usize = 64 << 10;

/// The bytes that a message needs beside the payload of the job.
const OVERHEAD: usize = 8 << 10;

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    done: Option<Done>,
}

/// The form with the payload; a replay from a list has none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Correction {
    payload: Option<String>,
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct DeadLetterPage {
    layout: Layout,
    id: JobId,
    kind: String,
    reason: &'static str,
    at: Moment,
    size: String,
    headers: Vec<(String, String)>,
    events: Vec<Event>,
    wrong: Option<String>,
    payload: Option<String>,
    /// Why the payload cannot be edited.
    no_editor: &'static str,
    text: String,
}

impl DeadLetterPage {
    fn of(layout: Layout, letter: &DeadLetter) -> Self {
        let headers = letter
            .submitted_headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let payload = payload(letter);
        Self {
            layout: layout.titled(format!("{} · dead letter", letter.kind)),
            id: letter.id,
            kind: letter.kind.to_string(),
            reason: letter.reason.map_or("for an unknown reason", text::reason),
            at: Moment::of(letter.at),
            size: text::bytes(letter.payload.len() as u64),
            headers: headers.collect(),
            events: timeline::of_failures(&letter.failures),
            wrong: None,
            no_editor: "The payload is too large to edit here. A program can replay the job with another \
                        payload: see the HTTP API.",
            payload,
            text: readable(&letter.payload),
        }
    }
}

/// The payload for the form; `null` if the message is not a readable job, since a replay with a payload
/// makes a job of it. `None` if it is too large.
fn payload(letter: &DeadLetter) -> Option<String> {
    let payload = JobMessage::decode(&letter.payload)
        .ok()
        .and_then(|job| job.payload)
        .map_or("null", serde_json::value::RawValue::get);
    (payload.len() <= MAX_EDITED).then(|| json::pretty(payload))
}

/// The message as text, whatever it is, cut if it is long.
fn readable(message: &[u8]) -> String {
    let piece = &message[..message.len().min(MAX_SHOWN)];
    let mut readable = match std::str::from_utf8(message) {
        Ok(text) if message.len() <= MAX_SHOWN && is_json(text) => json::pretty(text),
        _ => String::from_utf8_lossy(piece).into_owned(),
    };
    if piece.len() < message.len() {
        readable.push_str("\n… cut here; the file has all of it");
    }
    readable
}

/// What is wrong with a payload that a person has typed; `None` if nothing is.
fn wrong_payload(text: &str) -> Option<String> {
    let wrong = match serde_json::from_str(text).map(check_portable) {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => format!("Not every JSON parser can read the payload: {error}"),
        Err(error) => format!("The payload is not JSON: {error}"),
    };
    Some(format!("{wrong}. Nothing was done."))
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

async fn find(pages: &Pages, id: JobId) -> Result<Option<DeadLetter>, Problem> {
    pages.app.check_nats()?;
    let found = dead_letters::show(&pages.app.nats.client, id).await;
    found.map_err(Problem::away)
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let Some(letter) = find(&pages, id).await? else {
        return Err(Problem::not_found(format!(
            "Job {id} has no dead letter: it was replayed or discarded, or never given up."
        )));
    };
    let mut page = DeadLetterPage::of(Layout::new(&pages, "", "dead"), &letter);
    page.layout = page.layout.after(asked.done);
    html(&page)
}

/// Replays a dead letter, with another payload if the form has one, and shows the job.
pub(crate) async fn replay(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
    Form(correction): Form<Correction, LARGE>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let Some(letter) = find(&pages, id).await? else {
        return Ok(Redirect::to(&Done::Already.of_job(id)).into_response());
    };
    if let Some(text) = &correction.payload
        && let Some(wrong) = wrong_payload(text)
    {
        let mut page = DeadLetterPage::of(Layout::new(&pages, "", "dead"), &letter);
        page.wrong = Some(wrong);
        // Keeps what was typed.
        page.payload = Some(text.clone());
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, html(&page)?).into_response());
    }
    // A job that is replayed unchanged keeps its bytes, also if they are not a readable job.
    let unchanged = correction.payload.as_ref().is_some_and(|text| {
        let compact = |text: &str| json::pretty(&text.replace('\r', ""));
        payload(&letter).is_some_and(|before| compact(text) == compact(&before))
    });
    let payload = correction.payload.filter(|_| !unchanged).map(Bytes::from);
    let max = pages.app.nats.client.max_payload().saturating_sub(OVERHEAD);
    if payload.as_ref().is_some_and(|payload| payload.len() > max) {
        return Err(Problem::refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The payload is larger than {max} bytes. Nothing was done."),
        ));
    }
    let edited = payload.is_some();
    let app = pages.app.clone();
    let work = async move {
        let replayed = dead_letters::replay(&pages.app.nats.client, &letter, payload).await;
        pages.app.dead_letters_changed();
        if let Ok(Replayed::Yes) = replayed {
            info!(job.id = %id, by = %operator.name, edited, "replayed a dead letter");
        }
        Ok(replayed)
    };
    let replayed = app.finish(work).await?;
    let done = match replayed.map_err(|error| Problem::not_done(&error))? {
        Replayed::Yes => Done::Replayed,
        Replayed::Already => Done::Already,
    };
    Ok(Redirect::to(&done.of_job(id)).into_response())
}

/// Discards a dead letter.
pub(crate) async fn discard(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let done = match find(&pages, id).await? {
        Some(letter) => {
            let app = pages.app.clone();
            let work = async move {
                let discarded = dead_letters::discard(&pages.app.nats.client, &letter).await;
                pages.app.dead_letters_changed();
                if discarded.is_ok() {
                    info!(job.id = %id, by = %operator.name, "discarded a dead letter");
                }
                Ok(discarded)
            };
            let discarded = app.finish(work).await?;
            discarded.map_err(|error| Problem::not_done(&error))?;
            Done::Discarded
        }
        None => Done::Already,
    };
    Ok(Redirect::to(&done.at("/dead")).into_response())
}
