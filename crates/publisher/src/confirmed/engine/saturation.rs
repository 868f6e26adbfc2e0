use std::time::Duration;

use tokio::time::Instant;

/// Decides when the log says that jobs wait because all consumers are full: only after jobs have
/// waited for a while, and only once in a while.
#[derive(Debug, Default)]
pub(super) struct Saturation {
    reported_at: Option<Instant>,
}

impl Saturation {
    /// How long a job waits before it is reported, and the time from one report to the next.
    pub(super) const PERIOD: Duration = Duration::from_secs(10);

    /// Returns how many jobs to report now, of those that have waited since these moments, and when
    /// to call this again; `None` if no job waits.
    pub(super) fn due_report(
        &mut self,
        now: Instant,
        waiting_since: &[Instant],
    ) -> (usize, Option<Instant>) {
        let long = waiting_since
            .iter()
            .filter(|&&since| since + Self::PERIOD <= now);
        let next = waiting_since.iter().min().map(|&oldest| {
            let reported_at = self.reported_at.unwrap_or(oldest);
            oldest.max(reported_at) + Self::PERIOD
        });
        match next {
            Some(next) if next <= now => {
                self.reported_at = Some(now);
                (long.count(), Some(now + Self::PERIOD))
            }
            next => (0, next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jobs_that_wait_for_long_are_reported_and_once_in_a_period() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut saturation = Saturation::default();
        assert_eq!(saturation.due_report(start, &[]), (0, None));
        let since = [at(2), at(0), at(9)];
        assert_eq!(saturation.due_report(at(9), &since), (0, Some(at(10))));
        assert_eq!(saturation.due_report(at(11), &since), (1, Some(at(21))));
        assert_eq!(saturation.due_report(at(12), &since), (0, Some(at(21))));
        assert_eq!(saturation.due_report(at(20), &since), (0, Some(at(21))));
        assert_eq!(saturation.due_report(at(21), &since), (3, Some(at(31))));
        // Other jobs wait, all of them since after the last report.
        assert_eq!(saturation.due_report(at(40), &[at(35)]), (0, Some(at(45))));
        assert_eq!(saturation.due_report(at(45), &[at(35)]), (1, Some(at(55))));
    }
}
