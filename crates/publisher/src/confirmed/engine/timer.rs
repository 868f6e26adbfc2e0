use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// One timer for all jobs: it fires at the earliest moment that was set, or shortly after.
pub(super) struct Timer {
    /// The earliest moment that was set since it fired; `None` if there is none.
    next: Option<Instant>,
    fired_at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    /// The shortest time from one firing to the next.
    const PAUSE: Duration = Duration::from_millis(5);

    pub(super) fn new() -> Self {
        Self {
            next: None,
            fired_at: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Makes the timer fire at this moment, unless it is set to an earlier one.
    pub(super) fn set(&mut self, moment: Instant) {
        self.next = Some(self.next.map_or(moment, |next| next.min(moment)));
    }

    /// Ready when the timer fires. It must be set again after that.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Instant> {
        let Some(next) = self.next else {
            return Poll::Pending;
        };
        let next = next.max(self.fired_at + Self::PAUSE);
        if self.sleep.deadline() != next {
            self.sleep.as_mut().reset(next);
        }
        ready!(self.sleep.as_mut().poll(context));
        self.next = None;
        self.fired_at = Instant::now();
        Poll::Ready(self.fired_at)
    }
}
