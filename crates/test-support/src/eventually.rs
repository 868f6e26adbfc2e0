//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How long a test waits for something that is bound to happen, unless it says otherwise.
///
/// Far longer than anything takes: a loaded machine must not fail a test, and a test that waits in
/// vain has failed anyway.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Polls `probe` until it gives a value, and returns that.
///
/// This is the one place that sleeps between two looks, so that no test has to.
///
/// # Panics
///
/// When the deadline passes first, naming `what` was waited for.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, probe()).await {
            Ok(Some(value)) => return value,
            Ok(None) if start.elapsed() < deadline => {}
            Ok(None) | Err(_) => panic!("waited {deadline:?} in vain for {what}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let value = eventually(DEADLINE, "the third look", async || {
            looks += 1;
            (looks == 3).then_some("here")
        })
        .await;
        assert_eq!((value, looks), ("here", 3));
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for rain")]
    async fn a_wait_in_vain_names_what_was_waited_for() {
        eventually(Duration::from_millis(20), "rain", async || None::<()>).await;
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for an answer")]
    async fn a_probe_that_hangs_does_not_outlive_the_deadline() {
        let deadline = Duration::from_millis(20);
        eventually(deadline, "an answer", || {
            std::future::pending::<Option<()>>()
        })
        .await;
    }
}
