//! The page of one dead letter: look at it, correct it, replay it, discard it.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use bytes::Bytes;
use client::{DeadLetter, Replayed, dead_letters};
use common::{Job, JobId, check_portable};
use serde::Deserialize;
use tracing::info;

use super::Pages;
use super::form::{Form, LARGE};
use super::frame::{Done, Frame, html};
use super::job::parse;
use super::life::{self, Event};
use super::problem::Problem;
use super::text::{self, Moment};
use crate::access::Operator;

/// The longest payload that is put into a form: far above what a person corrects by hand.
const LONGEST_EDITED: usize = 256 << 10;

/// How much of the message is shown.
const LONGEST_SHOWN: usize = 64 << 10;

/// What a job has beside its payload, at most.
const AROUND: usize = 8 << 10;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    done: Option<Done>,
}

/// The form under a payload; a replay from a list comes without one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Correction {
    payload: Option<String>,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct LetterPage {
    frame: Frame,
    id: JobId,
    kind: String,
    reason: &'static str,
    at: Moment,
    size: String,
    headers: Vec<(String, String)>,
    events: Vec<Event>,
    wrong: Option<String>,
    payload: Option<String>,
    /// Why there is no form for the payload.
    no_editor: &'static str,
    text: String,
}

impl LetterPage {
    fn of(frame: Frame, letter: &DeadLetter) -> Self {
        let headers = letter
            .submitted_headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let payload = payload(letter);
        Self {
            frame: frame.titled(format!("{} · dead letter", letter.kind)),
            id: letter.id,
            kind: letter.kind.to_string(),
            reason: letter
                .reason
                .map_or("for a reason that is not known", text::reason),
            at: Moment::of(letter.at),
            size: text::bytes(letter.payload.len() as u64),
            headers: headers.collect(),
            events: life::of_failures(&letter.failures),
            wrong: None,
            no_editor: "It is too large for a form. A program can replay it with another payload: \
                        see the HTTP API.",
            payload,
            text: readable(&letter.payload),
        }
    }
}

/// The payload for the form: that of the job, or `null` where the message is none, since a replay
/// with a payload makes a job of it. Nothing if it is too large.
fn payload(letter: &DeadLetter) -> Option<String> {
    let payload = Job::decode(&letter.payload)
        .ok()
        .and_then(|job| job.payload)
        .map_or("null", serde_json::value::RawValue::get);
    (payload.len() <= LONGEST_EDITED).then(|| text::pretty(payload))
}

/// The message for people: as text, whatever it is, and cut.
fn readable(message: &[u8]) -> String {
    let piece = &message[..message.len().min(LONGEST_SHOWN)];
    let mut readable = match std::str::from_utf8(message) {
        Ok(json) if message.len() <= LONGEST_SHOWN && is_json(json) => text::pretty(json),
        _ => String::from_utf8_lossy(piece).into_owned(),
    };
    if piece.len() < message.len() {
        readable.push_str("\n… cut here; the whole is in the file");
    }
    readable
}

/// What is wrong with a payload that somebody has typed.
fn wrong_payload(text: &str) -> Option<String> {
    let wrong = match serde_json::from_str(text).map(check_portable) {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => format!("The payload cannot be read by others: {error}"),
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
    let id = parse(&id)?;
    let Some(letter) = find(&pages, id).await? else {
        return Err(Problem::not_found(format!(
            "Job {id} is not among the dead letters: it was replayed or discarded, or never was."
        )));
    };
    let mut page = LetterPage::of(Frame::new(&pages, "", "dead"), &letter);
    page.frame = page.frame.after(asked.done);
    html(&page)
}

/// Replays a letter, with another payload if there is one, and shows the job.
pub(crate) async fn replay(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
    Form(correction): Form<Correction, LARGE>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let Some(letter) = find(&pages, id).await? else {
        return Ok(Redirect::to(&Done::Already.of_job(id)).into_response());
    };
    if let Some(text) = &correction.payload
        && let Some(wrong) = wrong_payload(text)
    {
        let mut page = LetterPage::of(Frame::new(&pages, "", "dead"), &letter);
        page.wrong = Some(wrong);
        // What was typed is not lost.
        page.payload = Some(text.clone());
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, html(&page)?).into_response());
    }
    // A letter that is replayed as it is keeps its bytes, also where they are no job.
    let unchanged = correction.payload.as_ref().is_some_and(|text| {
        let compact = |text: &str| text::pretty(&text.replace('\r', ""));
        payload(&letter).is_some_and(|before| compact(text) == compact(&before))
    });
    let payload = correction.payload.filter(|_| !unchanged).map(Bytes::from);
    let most = pages.app.nats.client.max_payload().saturating_sub(AROUND);
    if payload.as_ref().is_some_and(|payload| payload.len() > most) {
        return Err(Problem::refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The payload is larger than {most} bytes. Nothing was done."),
        ));
    }
    let edited = payload.is_some();
    let app = pages.app.clone();
    let work = async move {
        let replayed = dead_letters::replay(&pages.app.nats.client, &letter, payload).await;
        pages.app.letters_changed();
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

/// Discards a letter.
pub(crate) async fn discard(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let done = match find(&pages, id).await? {
        Some(letter) => {
            let app = pages.app.clone();
            let work = async move {
                let discarded = dead_letters::discard(&pages.app.nats.client, &letter).await;
                pages.app.letters_changed();
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
