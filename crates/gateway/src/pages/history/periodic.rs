use std::time::Duration;

use tokio::time::Instant;

/// A value that is read only once in a while.
pub(crate) struct Periodic<T> {
    every: Duration,
    /// When it was read last, and the value; `None` if the last reading failed.
    last: Option<(Instant, T)>,
}

impl<T: Clone> Periodic<T> {
    pub(crate) const fn new(every: Duration) -> Self {
        Self { every, last: None }
    }

    /// Whether it is time to read the value.
    pub(crate) fn is_due(&self) -> bool {
        let last = self.last.as_ref();
        last.is_none_or(|(at, _)| at.elapsed() >= self.every)
    }

    /// Keeps a value that was read. After `None`, the value is not known, and reading it is due.
    pub(crate) fn keep(&mut self, value: Option<T>) {
        self.last = value.map(|value| (Instant::now(), value));
    }

    /// The last value; `None` if it is not known.
    pub(crate) fn get(&self) -> Option<T> {
        self.last.as_ref().map(|(_, value)| value.clone())
    }
}
