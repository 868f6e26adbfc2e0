//! Notices that this process did not run for a while: it was stopped, or the machine slept.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jetstream::ACK_WAIT;
use tokio::time::Instant;

/// A stall is at least this long. [`Stalls::tick`] must be called more often.
const STALL: Duration = Duration::from_secs(5);

/// For so long after a stall, this process may still handle messages that it received before, and that
/// other consumers have received meanwhile.
const AFTERMATH: Duration = ACK_WAIT.saturating_mul(2);

#[derive(Debug)]
pub(crate) struct Stalls(Mutex<Last>);

#[derive(Debug)]
struct Last {
    /// The last tick, by the clock that stands still while the machine sleeps, and by the other one.
    tick: (Instant, SystemTime),
    /// The end of the last stall.
    end: Option<Instant>,
}

impl Default for Stalls {
    fn default() -> Self {
        Self(Mutex::new(Last {
            tick: (Instant::now(), SystemTime::now()),
            end: None,
        }))
    }
}

impl Stalls {
    /// Says that this process runs. Called every second or so.
    pub(crate) fn tick(&self) {
        self.recently();
    }

    /// Whether this process was stalled shortly before.
    pub(crate) fn recently(&self) -> bool {
        self.recently_at(Instant::now(), SystemTime::now())
    }

    fn recently_at(&self, now: Instant, by_clock: SystemTime) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, by_clock_before) = std::mem::replace(&mut last.tick, (now, by_clock));
        let gap = now.saturating_duration_since(before);
        let gap_by_clock = by_clock.duration_since(by_clock_before).unwrap_or_default();
        if gap.max(gap_by_clock) >= STALL {
            last.end = Some(now);
        }
        let end = last.end;
        end.is_some_and(|end| now.saturating_duration_since(end) < AFTERMATH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_noticed_by_either_clock_and_counts_for_a_while() {
        for (passed, by_clock) in [(20, 20), (0, 20), (20, 0)] {
            let stalls = Stalls::default();
            let (start, start_by_clock) = (Instant::now(), SystemTime::now());
            let at = |seconds: u64, by_clock: u64| {
                stalls.recently_at(
                    start + Duration::from_secs(seconds),
                    start_by_clock + Duration::from_secs(by_clock),
                )
            };
            assert!(!at(1, 1) && !at(2, 2));
            for second in 2..32 {
                assert!(at(second + passed, second + by_clock), "{second}");
            }
            assert!(!at(32 + passed, 32 + by_clock));
        }
    }
}
