//! Follows a job: its records as Server-Sent Events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bootstrap::Subscriber;
use common::{JobId, JobRecord, JobState, subjects};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::debug;

use super::jobs::look_up;
use super::params::Id;
use crate::app::App;
use crate::auth::{Grant, Reader, Scope};
use crate::http::Problem;

/// How often a comment is sent while nothing happens, so that nobody takes the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);

/// The pause after a failed look-up.
const PAUSE: Duration = Duration::from_millis(250);

/// The position of a record in the history of its job: each change makes it greater. As text it is the
/// id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    run: u32,
    attempt: u32,
    step: u8,
}

impl Position {
    fn of(record: &JobRecord) -> Self {
        let step = match record.state {
            JobState::Scheduled | JobState::Unreadable => 0,
            JobState::Queued => 1,
            JobState::Running => 2,
            JobState::Retrying => 3,
            JobState::Succeeded | JobState::Dead | JobState::Cancelled | JobState::Expired => 4,
        };
        Self {
            run: record.run,
            attempt: record.attempt,
            step,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let position = Self {
            run: parts.next()?.parse().ok()?,
            attempt: parts.next()?.parse().ok()?,
            step: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(position)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.run, self.attempt, self.step)
    }
}

/// Follow a job
///
/// Server-Sent Events named `record`: the current record, then the record after each change, until the
/// job has ended. With `Last-Event-ID`, only later events are sent; if the last one was the end of the
/// job, the answer is 204, so that a browser does not connect again. The stream also ends when the
/// token is withdrawn.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    operation_id = "follow_job",
    tag = "jobs",
    params(
        ("id" = uuid::Uuid, Path, description = "The job"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the client has received"),
    ),
    responses(
        (status = 200, description = "Events whose data are records of the job", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The client has received the end of the job already"),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The job is not known, or not any more", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many event streams are open", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn events(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grant = app.access.grant(&headers, Scope::Read)?;
    let permit = app.limits.stream()?;
    app.check_nats()?;
    let last = headers
        .get("last-event-id")
        .and_then(|value| Position::parse(value.to_str().ok()?));
    let mut connected = app.nats.connected();
    connected.borrow_and_update();
    // Subscribed before the look-up, so that no change is missed between the two.
    let changes = app.nats.client.subscribe(subjects::events(id)).await;
    let changes =
        changes.map_err(|error| Problem::away(format!("the job cannot be followed: {error}")))?;
    let now = look_up(&app, id).await?;
    if now.state.is_final() && last == Some(Position::of(&now)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let following = Following {
        app,
        grant,
        id,
        changes,
        connected,
        missed: false,
        last,
        next: Some(now),
        ended: false,
        _permit: permit,
    };
    let alive = KeepAlive::new().interval(HEARTBEAT).text("");
    Ok(Sse::new(following.into_stream())
        .keep_alive(alive)
        .into_response())
}

struct Following {
    app: App,
    grant: Grant,
    id: JobId,
    changes: Subscriber,
    connected: watch::Receiver<bool>,
    /// The position of the last event that the client has received.
    last: Option<Position>,
    /// Whether changes may have been missed.
    missed: bool,
    /// The record to send next, if it is known already.
    next: Option<JobRecord>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Following {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut following| {
            let event = following.event().await?;
            Some((Ok(event), following))
        })
    }

    /// The next event; `None` when the job has ended, the token is withdrawn, or the gateway stops.
    async fn event(&mut self) -> Option<Event> {
        while !self.ended {
            let record = match self.next.take() {
                Some(record) => record,
                None => self.change().await?,
            };
            let position = Position::of(&record);
            self.ended = record.state.is_final();
            // An end is always sent, whatever its position.
            let behind = self.last.is_some_and(|last| position < last);
            if self.last == Some(position) || (behind && !self.ended) {
                continue;
            }
            self.last = Some(position);
            let data = serde_json::to_string(&record).ok()?;
            let event = Event::default().event("record").id(position.to_string());
            return Some(event.retry(RETRY).data(data));
        }
        None
    }

    async fn change(&mut self) -> Option<JobRecord> {
        let shutdown = self.app.context.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = self.grant.withdrawn() => return None,
                change = self.changes.next() => {
                    // Anything that is not a record was sent by somebody else.
                    if let Ok(record) = serde_json::from_slice(&change?.payload) {
                        return Some(record);
                    }
                }
                changed = self.connected.changed() => {
                    changed.ok()?;
                    // Changes while there was no connection were missed.
                    self.missed = *self.connected.borrow_and_update();
                }
                now = look_again(&self.app, self.id), if self.missed => {
                    self.missed = false;
                    if let Some(now) = now {
                        return Some(now);
                    }
                }
            }
        }
    }
}

/// Looks a job up, and again until that succeeds: a server that has just started may not know its
/// streams yet.
async fn look_again(app: &App, id: JobId) -> Option<JobRecord> {
    loop {
        match client::look_up(&app.nats.client, id).await {
            Ok(now) => return now,
            Err(error) => debug!(job.id = %id, "cannot look the job up: {error:#}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_an_id_that_leads_back_to_its_position() {
        let position = Position {
            run: 2,
            attempt: 11,
            step: 4,
        };
        assert_eq!(Position::parse(&position.to_string()), Some(position));
        let earlier = Position {
            attempt: 9,
            ..position
        };
        assert!(earlier < position);
        for text in ["", "1-2", "1-2-3-4", "a-b-c", "-1-2-3"] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }
}
