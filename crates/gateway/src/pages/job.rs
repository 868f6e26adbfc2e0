//! The page of one job, with its timeline.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use bytes::Bytes;
use client::{ManyAction, Reason, RunNow, dead_letters};
use common::{JobId, JobMessage, JobRecord, JobState, ScheduleName, Until};
use serde::Deserialize;
use tracing::{debug, info};

use super::job_id::parse_id;
use super::layout::{Done, Layout};
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::timeline::{self, Event};
use super::widgets::{Moment, json, text};
use crate::auth::Operator;

/// The most bytes of a payload or result that are shown.
const MAX_SHOWN: usize = 64 << 10;

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    done: Option<Done>,
}

/// Why a job waits.
struct Why {
    name: &'static str,
    text: String,
    is_unserved: bool,
}

#[derive(Template)]
#[template(path = "job.html")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says whether a part of the page is shown"
)]
pub(crate) struct JobPage {
    layout: Layout,
    id: JobId,
    kind: String,
    state: &'static str,
    tone: &'static str,
    is_final: bool,
    /// Whether it waits for its time or its next attempt, so that it can be run now.
    waits: bool,
    /// Whether the dead letter of the job exists.
    has_dead_letter: bool,
    /// Why the job waits, as far as its state does not say so.
    reasons: Vec<Why>,
    at: Moment,
    attempt: u32,
    consumer: Option<String>,
    next_at: Option<Moment>,
    duration: Option<String>,
    reason: Option<&'static str>,
    /// The payload, or the whole message if it is not a readable job. `None` if the message cannot be
    /// read, or the record of a job that has ended does not keep it.
    payload: Option<String>,
    /// What the job says of itself beside its kind and payload; `None` if that is nothing or not known.
    options: Option<String>,
    /// The key of a unique job, and until when the job holds it.
    unique: Option<String>,
    /// The other job that holds this key now.
    key_holder: Option<JobId>,
    /// The recurring schedule that submitted the job.
    schedule: Option<ScheduleName>,
    /// Whether the message cannot be read now.
    payload_unknown: bool,
    result: Option<String>,
    events: Vec<Event>,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    pages.app.check_nats()?;
    let found = client::look_up(&pages.app.nats.client, id).await;
    let Some(record) = found.map_err(Problem::away)? else {
        // A dead letter can be left of a job whose record has expired.
        let exists = dead_letters::exists(&pages.app.nats.client, id).await;
        return if exists.map_err(Problem::away)? {
            Ok(Redirect::to(&format!("/dead/{id}")).into_response())
        } else {
            Err(Problem::not_found(format!("Job {id} is not known.")))
        };
    };
    // The record is shown even if this fails.
    let message = client::message(&pages.app.nats.client, &record).await;
    let message = match message {
        Ok(message) => Message::from(message),
        Err(error) => {
            debug!(job.id = %id, "cannot read the message of the job: {error:#}");
            Message::Unknown
        }
    };
    let has_dead_letter = has_dead_letter(&pages, &record).await;
    let reasons = reasons(&pages, &record).await;
    let key_holder = key_holder(&pages, &record, &message).await;
    let layout = Layout::new(&pages, "", "jobs").after(asked.done);
    let mut page = JobPage::new(layout, record, &message, has_dead_letter);
    page.reasons = reasons;
    page.key_holder = key_holder;
    html(&page)
}

/// Why a job waits, or a dead one cannot be replayed, as far as its state does not say so; empty if that is not
/// known now.
async fn reasons(pages: &Pages, record: &JobRecord) -> Vec<Why> {
    let waits = !record.state.is_final() && record.state != JobState::Running;
    if !waits && record.state != JobState::Dead {
        return Vec::new();
    }
    let reasons = client::reasons(&pages.app.nats.client, record).await;
    reasons
        .unwrap_or_default()
        .into_iter()
        .filter(|reason| {
            use Reason::{Retrying, Running, Scheduled};
            !matches!(reason, Running { .. } | Scheduled { .. } | Retrying { .. })
        })
        .map(|reason| Why {
            name: reason.name(),
            text: reason.to_string(),
            is_unserved: matches!(reason, Reason::NoConsumer { .. }),
        })
        .collect()
}

/// The other job that holds the key of a job now; `None` if there is none, or that is not known now.
async fn key_holder(pages: &Pages, record: &JobRecord, message: &Message) -> Option<JobId> {
    let job = message.or_kept(record)?;
    let key = client::key_of(&pages.app.nats.client, job).await.ok()??;
    key.holder.filter(|holder| *holder != record.id)
}

/// Whether the dead letter of a job exists; if that cannot be looked up now, the record decides.
async fn has_dead_letter(pages: &Pages, record: &JobRecord) -> bool {
    let exists = async || dead_letters::exists(&pages.app.nats.client, record.id).await;
    record.state == JobState::Dead && exists().await.unwrap_or(!record.is_discarded())
}

/// The message in which a job waits or runs.
pub(crate) enum Message {
    /// There is none: the job has ended.
    None,
    /// It cannot be read now.
    Unknown,
    /// The job as it was submitted.
    Bytes(Bytes),
}

impl Message {
    /// The job as it was submitted, from this message or from the record that keeps it.
    fn or_kept<'a>(&'a self, record: &'a JobRecord) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(message) => Some(message),
            Self::None | Self::Unknown => record.job.as_ref().map(|job| job.get().as_bytes()),
        }
    }
}

impl From<Option<Bytes>> for Message {
    fn from(message: Option<Bytes>) -> Self {
        message.map_or(Self::None, Self::Bytes)
    }
}

impl JobPage {
    pub(crate) fn new(
        layout: Layout,
        record: JobRecord,
        message: &Message,
        has_dead_letter: bool,
    ) -> Self {
        let kind = record
            .kind
            .as_ref()
            .map_or_else(|| "unreadable".to_owned(), ToString::to_string);
        // A job that has ended changes only if it is replayed.
        let every = if record.state.is_final() { 3 } else { 1 };
        Self {
            layout: layout
                .titled(format!("{kind} · {}", record.state))
                .live(every),
            id: record.id,
            kind,
            state: record.state.as_str(),
            tone: text::tone(record.state),
            is_final: record.state.is_final(),
            waits: ManyAction::RunNow.takes(record.state),
            has_dead_letter,
            reasons: Vec::new(),
            at: Moment::of(record.at),
            attempt: record.attempt,
            next_at: record
                .next_at
                .filter(|_| !record.state.is_final())
                .map(Moment::of),
            duration: record.duration_ms.map(text::milliseconds),
            reason: record.reason.map(text::reason),
            payload: match (message, &record.job) {
                (Message::Bytes(message), _) => Some(payload(message)),
                (_, Some(job)) => kept_payload(job.get().as_bytes()),
                (Message::None | Message::Unknown, None) => None,
            },
            options: message.or_kept(&record).and_then(options),
            unique: message.or_kept(&record).and_then(unique),
            key_holder: None,
            schedule: record.schedule.clone(),
            payload_unknown: matches!(message, Message::Unknown),
            result: record.result.as_ref().map(|result| readable(result.get())),
            events: timeline::of_record(&record, has_dead_letter),
            consumer: record.consumer,
        }
    }
}

/// The payload in a message, or the whole message if it is not a readable job.
fn payload(message: &[u8]) -> String {
    match JobMessage::decode(message) {
        Ok(job) => readable(job.payload.map_or("null", serde_json::value::RawValue::get)),
        Err(_) => text::cut(&String::from_utf8_lossy(message), MAX_SHOWN),
    }
}

/// The payload in a job that its record keeps; `None` if it is left out there.
fn kept_payload(job: &[u8]) -> Option<String> {
    let job = JobMessage::decode(job).ok()?;
    job.payload.map(|payload| readable(payload.get()))
}

/// What a job says of itself beside its kind and payload; `None` if that is nothing.
fn options(message: &[u8]) -> Option<String> {
    let job = JobMessage::decode(message).ok()?;
    let options = JobMessage {
        id: None,
        payload: None,
        created_at: None,
        ..job
    };
    let nothing = serde_json::to_string(&JobMessage::new(options.kind.clone())).ok()?;
    let options = serde_json::to_string(&options).ok()?;
    (options != nothing).then(|| readable(&options))
}

/// The key of a job, and until when the job holds it; `None` if the job is not unique.
fn unique(message: &[u8]) -> Option<String> {
    let unique = JobMessage::decode(message).ok()?.unique?;
    Some(match unique.until {
        Until::Ended => format!("{}, until it has ended", unique.key),
        Until::Started => format!("{}, until its first attempt starts", unique.key),
    })
}

/// JSON for people, cut if it is long.
fn readable(json: &str) -> String {
    if json.len() > MAX_SHOWN {
        text::cut(json, MAX_SHOWN)
    } else {
        json::pretty(json)
    }
}

/// Asks the consumers to cancel a job, and shows the job.
pub(crate) async fn cancel(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    pages.app.check_nats()?;
    let asked = client::cancel(&pages.app.nats.client, id).await;
    asked.map_err(|error| Problem::not_done(&error.into()))?;
    info!(job.id = %id, by = %operator.name, "asked that a job be cancelled");
    Ok(Redirect::to(&Done::CancelAsked.of_job(id)).into_response())
}

/// Has a consumer run a waiting job now, and shows the job.
pub(crate) async fn run_now(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    pages.app.check_nats()?;
    let asked = client::run_now(&pages.app.nats.client, id).await;
    let result = asked.map_err(|error| Problem::not_done(&error.into()))?;
    info!(job.id = %id, by = %operator.name, ?result, "asked that a job be run now");
    let done = match result {
        RunNow::Done | RunNow::Due => Done::RunNow,
        RunNow::NotWaiting => Done::NotWaiting,
    };
    Ok(Redirect::to(&done.of_job(id)).into_response())
}
