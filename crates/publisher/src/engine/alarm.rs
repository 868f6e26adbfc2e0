use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Rings when jobs are to be looked through.
pub(super) struct Alarm {
    /// When a job waits no longer, or earlier.
    next: Option<Instant>,
    rang_at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    /// It rings no more often than this.
    const PAUSE: Duration = Duration::from_millis(5);

    pub(super) fn new() -> Self {
        Self {
            next: None,
            rang_at: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Has it ring at this moment, or earlier.
    pub(super) fn set(&mut self, moment: Instant) {
        self.next = Some(self.next.map_or(moment, |next| next.min(moment)));
    }

    /// Ready when it rings; it then has to be set again.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Instant> {
        let Some(next) = self.next else {
            return Poll::Pending;
        };
        let next = next.max(self.rang_at + Self::PAUSE);
        if self.sleep.deadline() != next {
            self.sleep.as_mut().reset(next);
        }
        ready!(self.sleep.as_mut().poll(context));
        self.next = None;
        self.rang_at = Instant::now();
        Poll::Ready(self.rang_at)
    }
}
