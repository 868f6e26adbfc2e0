use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// The last answer to a question, shared by all callers while it is fresh.
pub(super) struct Cached<T> {
    fresh_for: Duration,
    /// When the last answer came, and the answer.
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Cached<T> {
    pub(super) const fn new(fresh_for: Duration) -> Self {
        Self {
            fresh_for,
            last: Mutex::const_new(None),
        }
    }

    /// The last answer while it is fresh, otherwise a new one. Callers that come while one asks wait
    /// for the same answer. A failure should be a `T` as well: otherwise each waiting caller would find
    /// out by itself that nobody answers.
    pub(super) async fn get_or_ask(&self, ask: impl AsyncFnOnce() -> T) -> T {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < self.fresh_for
        {
            return answer.clone();
        }
        let answer = ask().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_share_an_answer_until_it_is_old() {
        let cached = Cached::new(Duration::from_secs(2));
        let asked = AtomicU32::new(0);
        let get = || {
            cached.get_or_ask(async || {
                // Those that come meanwhile wait for this answer.
                tokio::time::advance(Duration::from_secs(10)).await;
                asked.fetch_add(1, Ordering::Relaxed) + 1
            })
        };
        assert_eq!(join_all((0..20).map(|_| get())).await, [1; 20]);
        tokio::time::advance(Duration::from_millis(1_999)).await;
        assert_eq!(get().await, 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(get().await, 2);
    }
}
