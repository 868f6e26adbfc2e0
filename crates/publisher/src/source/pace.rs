use std::time::Duration;

use tokio::time::Instant;

/// Says when the next job is due.
#[derive(Debug)]
pub(super) struct Pace {
    jobs_per_second: f64,
    start: Instant,
    /// Jobs since the start. The next time is computed from their number, so errors do not add up.
    issued: u64,
}

impl Pace {
    /// A longer delay is not made up for. Otherwise a generator that could not submit for a while would
    /// then submit many jobs at once.
    const LATEST: Duration = Duration::from_secs(1);

    /// A job every `interval`, the first one at once. If it is zero, the next job is always due.
    pub(super) fn every(interval: Duration, now: Instant) -> Self {
        Self::at_rate(1.0 / interval.as_secs_f64(), now)
    }

    pub(super) fn at_rate(jobs_per_second: f64, now: Instant) -> Self {
        Self {
            jobs_per_second,
            start: now,
            issued: 0,
        }
    }

    /// When the next job is due.
    pub(super) fn due(&self) -> Instant {
        let seconds = self.issued as f64 / self.jobs_per_second;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|after| self.start.checked_add(after))
            // The clock cannot represent a later time.
            .unwrap_or_else(|| self.start + Duration::from_hours(24 * 365))
    }

    /// Counts the next job if it is due, and returns whether it is.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.due();
        if now < due {
            return false;
        }
        if now - due > Self::LATEST && self.jobs_per_second.is_finite() {
            self.start = now;
            self.issued = 0;
        }
        self.issued += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, now: Instant) -> usize {
        std::iter::from_fn(|| pace.take(now).then_some(())).count()
    }

    #[test]
    fn the_first_job_is_due_at_once_and_the_next_after_the_interval() {
        let start = Instant::now();
        let mut pace = Pace::every(Duration::from_millis(250), start);
        assert!(pace.take(start));
        assert!(!pace.take(start));
        assert_eq!(pace.due(), start + Duration::from_millis(250));
        assert_eq!(taken(&mut pace, start + Duration::from_millis(750)), 3);
    }

    #[test]
    fn a_rate_is_kept_however_unevenly_the_clock_is_read() {
        let start = Instant::now();
        let mut pace = Pace::at_rate(5_000.0, start);
        let looks = [1, 2, 30, 31, 400, 1_300, 1_301, 2_000];
        let jobs: usize = looks
            .map(|millis| taken(&mut pace, start + Duration::from_millis(millis)))
            .iter()
            .sum();
        assert_eq!(jobs, 10_001);
    }

    #[test]
    fn a_long_delay_is_not_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::every(Duration::from_secs(1), start);
        assert!(pace.take(start));
        let late = start + Duration::from_mins(10);
        assert_eq!(taken(&mut pace, late), 1);
        assert_eq!(pace.due(), late + Duration::from_secs(1));
    }

    #[test]
    fn without_an_interval_the_next_job_is_always_due() {
        let start = Instant::now();
        let mut pace = Pace::every(Duration::ZERO, start);
        assert!((0..1_000).all(|_| pace.take(start)));
    }

    #[test]
    fn the_slowest_rate_does_not_overflow_the_clock() {
        let start = Instant::now();
        let mut pace = Pace::at_rate(f64::MIN_POSITIVE, start);
        assert!(pace.take(start));
        assert!(!pace.take(start + Duration::from_hours(1)));
    }
}
