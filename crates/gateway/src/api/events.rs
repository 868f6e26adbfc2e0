//! What happens to a job, as it happens: Server-Sent Events.

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
use crate::access::Reader;
use crate::app::App;
use crate::problem::Problem;
use crate::scope::Scope;
use crate::tokens::Grant;

/// How often something is sent where nothing happens, so that nobody takes the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// When a browser that lost the stream comes back.
const RETRY: Duration = Duration::from_secs(1);

/// The pause before a job is looked up again after that went wrong.
const AGAIN: Duration = Duration::from_millis(250);

/// Where in its life a job is: each change leads to a greater one. As text it is the id of an
/// event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    run: u32,
    attempt: u32,
    step: u8,
}

impl Place {
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
        let place = Self {
            run: parts.next()?.parse().ok()?,
            attempt: parts.next()?.parse().ok()?,
            step: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.run, self.attempt, self.step)
    }
}

/// Follow a job
///
/// Server-Sent Events named `record`: the record as it is, then after each change, until the job
/// has ended. Whoever comes back with `Last-Event-ID` is told only of what is new to it; an end
/// that it knows is answered with 204, so that a browser does not come again. The stream ends, too,
/// when the token is withdrawn.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    operation_id = "follow_job",
    tag = "jobs",
    params(
        ("id" = uuid::Uuid, Path, description = "The job"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "Events whose data are records of the job", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The end of the job is known already"),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody knows the job, or does not any more", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "There are as many streams as may be", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn events(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grant = app.access.grant(&headers, Scope::Read)?;
    let place = app.limits.stream()?;
    app.check_nats()?;
    let last = headers
        .get("last-event-id")
        .and_then(|value| Place::parse(value.to_str().ok()?));
    let mut connected = app.nats.connected();
    connected.borrow_and_update();
    // Listened to before it is looked up, so that nothing falls between the two.
    let changes = app.nats.client.subscribe(subjects::events(id)).await;
    let changes =
        changes.map_err(|error| Problem::away(format!("the job cannot be followed: {error}")))?;
    let now = look_up(&app, id).await?;
    if now.state.is_final() && last == Some(Place::of(&now)) {
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
        _place: place,
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
    /// Where the client has seen the job.
    last: Option<Place>,
    /// Whether there may be changes that it was not told of.
    missed: bool,
    /// A record that it may not have seen.
    next: Option<JobRecord>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Following {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut following| {
            let event = following.event().await?;
            Some((Ok(event), following))
        })
    }

    /// The next event; none when the job has ended, whoever follows may not any more, or the gateway
    /// stops.
    async fn event(&mut self) -> Option<Event> {
        while !self.ended {
            let record = match self.next.take() {
                Some(record) => record,
                None => self.change().await?,
            };
            let place = Place::of(&record);
            self.ended = record.state.is_final();
            // An end is always told, wherever it stands.
            let behind = self.last.is_some_and(|last| place < last);
            if self.last == Some(place) || (behind && !self.ended) {
                continue;
            }
            self.last = Some(place);
            let data = serde_json::to_string(&record).ok()?;
            let event = Event::default().event("record").id(place.to_string());
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
                    // What is no record is what somebody else has sent.
                    if let Ok(record) = serde_json::from_slice(&change?.payload) {
                        return Some(record);
                    }
                }
                changed = self.connected.changed() => {
                    changed.ok()?;
                    // What happened while there was no connection was told to nobody.
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

/// Looks a job up until that succeeds: a server that has just started may not know its streams yet.
async fn look_again(app: &App, id: JobId) -> Option<JobRecord> {
    loop {
        match client::look_up(&app.nats.client, id).await {
            Ok(now) => return now,
            Err(error) => debug!(job.id = %id, "cannot look the job up: {error:#}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_an_id_that_leads_back_to_its_place() {
        let place = Place {
            run: 2,
            attempt: 11,
            step: 4,
        };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        let earlier = Place {
            attempt: 9,
            ..place
        };
        assert!(earlier < place);
        for text in ["", "1-2", "1-2-3-4", "a-b-c", "-1-2-3"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
