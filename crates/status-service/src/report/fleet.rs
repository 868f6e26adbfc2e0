use tracing::{debug, info};

use super::rounding::{milliseconds, tenths};
use crate::fleet::Summary;

/// Logs the fleet after a round: at level debug if it is no news, so that a system in which nothing
/// happens is quiet.
pub(super) fn summary(summary: &Summary, news: bool) {
    let progress = summary.progress.as_ref();
    let spread = summary.spread.map(|spread| spread.to_string());
    macro_rules! log {
        ($level:ident) => {
            $level!(
                consumers = summary.consumers,
                running = summary.running,
                saturated = summary.saturated,
                draining = summary.draining,
                missing = summary.missing,
                in_flight = summary.in_flight,
                waiting = summary.waiting,
                processed = summary.totals.processed,
                since_last = progress.map(|progress| progress.processed),
                per_second = progress.and_then(|progress| {
                    let seconds = progress.elapsed.as_secs_f64();
                    (seconds > 0.0).then(|| tenths(progress.processed as f64 / seconds))
                }),
                failed = summary.totals.failed,
                rejected = summary.totals.rejected,
                expired = summary.totals.expired,
                spread = %spread.as_deref().unwrap_or("-"),
                round_trip_ms = milliseconds(summary.round_trip),
                "fleet"
            )
        };
    }
    if news {
        log!(info);
    } else {
        log!(debug);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::test_lines::{fleet, json, lines};

    #[test]
    fn the_fleet_is_one_line_and_at_level_debug_if_it_is_no_news() {
        let mut first = fleet();
        (first.progress, first.spread) = (None, None);
        insta::assert_snapshot!(lines(|| {
            summary(&fleet(), true);
            summary(&first, false);
        }));
        insta::assert_snapshot!(json(|| summary(&fleet(), true)));
    }
}
