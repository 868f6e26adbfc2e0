use std::time::Duration;

use tokio::time::Instant;

/// Knows when to say that jobs wait because all consumers are full: not of a burst that waits for
/// its turn, and not all the time.
#[derive(Debug, Default)]
pub(super) struct Saturation {
    said_at: Option<Instant>,
}

impl Saturation {
    /// So long a job waits before it is mentioned, and so long it then takes until it is said
    /// again.
    pub(super) const PERIOD: Duration = Duration::from_secs(10);

    /// How many jobs are to be mentioned now, of those that wait since these moments, and when
    /// that is to be asked next.
    pub(super) fn mention(&mut self, now: Instant, since: &[Instant]) -> (usize, Option<Instant>) {
        let long = since.iter().filter(|&&since| since + Self::PERIOD <= now);
        let next = since.iter().min().map(|&oldest| {
            let said_at = self.said_at.unwrap_or(oldest);
            oldest.max(said_at) + Self::PERIOD
        });
        match next {
            Some(next) if next <= now => {
                self.said_at = Some(now);
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
    fn only_jobs_that_wait_for_long_are_mentioned_and_once_in_a_period() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut saturation = Saturation::default();
        assert_eq!(saturation.mention(start, &[]), (0, None));
        let since = [at(2), at(0), at(9)];
        assert_eq!(saturation.mention(at(9), &since), (0, Some(at(10))));
        assert_eq!(saturation.mention(at(11), &since), (1, Some(at(21))));
        assert_eq!(saturation.mention(at(12), &since), (0, Some(at(21))));
        assert_eq!(saturation.mention(at(20), &since), (0, Some(at(21))));
        assert_eq!(saturation.mention(at(21), &since), (3, Some(at(31))));
        // Others wait, of which the oldest waits since later than something was said.
        assert_eq!(saturation.mention(at(40), &[at(35)]), (0, Some(at(45))));
        assert_eq!(saturation.mention(at(45), &[at(35)]), (1, Some(at(55))));
    }
}
