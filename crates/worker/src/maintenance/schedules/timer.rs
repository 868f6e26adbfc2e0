//! The timers of schedules: the server says when the time of a tick has come.

use async_nats::HeaderMap;
use bootstrap::NatsClient;
use bytes::Bytes;
use common::{ScheduleName, Timestamp, subjects};
use jetstream::headers::{self, EXPECTED_LAST, SCHEDULE, SCHEDULE_TARGET};
use jetstream::{ApiError, Message, Stream, direct_get};

/// The stored timer of a schedule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    /// The tick that it waits for; `None` if there is no timer, or another message in its place.
    pub(super) tick: Option<Timestamp>,
    /// Its sequence in the stream; 0 if there is none.
    pub(super) sequence: u64,
}

pub(super) async fn read(client: &NatsClient, name: &ScheduleName) -> Result<Timer, ApiError> {
    let subject = subjects::next_tick(name);
    let stored = direct_get::last(client, Stream::Later, &subject).await?;
    Ok(stored.map_or_else(Timer::default, |stored| {
        let target = stored.headers.get(SCHEDULE_TARGET);
        let is_timer = target.is_some_and(|target| target.as_str() == subjects::due_tick(name));
        let tick = headers::scheduled_time(&stored.headers);
        Timer {
            tick: tick.filter(|_| is_timer),
            sequence: stored.sequence,
        }
    }))
}

impl Timer {
    /// The message that replaces the timer by one for a tick.
    pub(super) fn message(self, name: &ScheduleName, tick: Timestamp) -> Message {
        let mut added = HeaderMap::new();
        added.insert(EXPECTED_LAST, self.sequence.to_string());
        added.insert(SCHEDULE, headers::schedule_at(tick));
        added.insert(SCHEDULE_TARGET, subjects::due_tick(name));
        Message {
            subject: subjects::next_tick(name),
            headers: added,
            payload: Bytes::new(),
        }
    }
}
