//! Measures how long the server has not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Measures for how long the server has answered none of the requests sent; clones share the
/// measurement.
///
/// It reads the clock once for each batch.
#[derive(Clone, Debug)]
pub struct Unanswered(Arc<Since>);

#[derive(Debug)]
struct Since {
    base: Instant,
    /// When the first request after the last answer was sent, in milliseconds after `base`; 0 if no
    /// answer is awaited.
    asked: AtomicU64,
}

impl Default for Unanswered {
    fn default() -> Self {
        Self(Arc::new(Since {
            base: Instant::now(),
            asked: AtomicU64::new(0),
        }))
    }
}

impl Unanswered {
    /// A request was sent.
    pub fn asked(&self) {
        if self.0.asked.load(Ordering::Relaxed) == 0 {
            let now = self.0.base.elapsed().as_millis();
            let now = u64::try_from(now).unwrap_or(u64::MAX).max(1);
            self.0.asked.store(now, Ordering::Relaxed);
        }
    }

    /// The server has answered, or nothing is awaited any more.
    pub fn over(&self) {
        self.0.asked.store(0, Ordering::Relaxed);
    }

    /// For how long an answer has been awaited; `None` if no answer is awaited.
    #[must_use]
    pub fn length(&self) -> Option<Duration> {
        let asked = self.0.asked.load(Ordering::Relaxed);
        let asked = Duration::from_millis(asked);
        (!asked.is_zero()).then(|| self.0.base.elapsed().saturating_sub(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_first_question_to_the_next_answer() {
        let unanswered = Unanswered::default();
        assert_eq!(unanswered.length(), None);
        unanswered.asked();
        let asked = unanswered.0.asked.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(3));
        unanswered.asked();
        assert_eq!(unanswered.0.asked.load(Ordering::Relaxed), asked);
        assert!(unanswered.length().is_some());
        unanswered.over();
        assert_eq!(unanswered.length(), None);
    }
}
