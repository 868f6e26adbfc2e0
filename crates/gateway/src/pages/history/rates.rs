use std::collections::BTreeMap;

use common::{Counts, Fleet, Timestamp};

/// The most status services whose totals are kept apart.
const MAX_SERVICES: usize = 16;

/// Computes rates from the totals that each status service sent last. Totals of two status services
/// cannot be compared: each counts since its own start.
#[derive(Default)]
pub(super) struct Rates(BTreeMap<(String, Timestamp), Last>);

/// The totals of a round, and the rates since the round before it.
struct Last {
    round: Timestamp,
    totals: Counts,
    rates: Option<(f64, f64)>,
}

impl Rates {
    /// How many jobs ended and failed a second between the last two rounds of the same status service;
    /// `None` after its first round.
    pub(super) fn between_rounds(&mut self, fleet: &Fleet) -> Option<(f64, f64)> {
        let round = fleet.asked_at?;
        let service = (fleet.instance.clone(), fleet.started_at);
        let rates = match self.0.get(&service) {
            Some(last) if last.round == round => return last.rates,
            Some(last) => {
                let seconds = round.since(last.round).as_secs_f64();
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                let ended = rate(fleet.totals.processed, last.totals.processed);
                let failed = rate(fleet.totals.failed, last.totals.failed);
                (seconds > 0.0).then_some((ended, failed))
            }
            None => None,
        };
        if self.0.len() >= MAX_SERVICES {
            self.0.clear();
        }
        let totals = fleet.totals;
        self.0.insert(
            service,
            Last {
                round,
                totals,
                rates,
            },
        );
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(instance: &str, round: i64, processed: u64, failed: u64) -> Fleet {
        let start: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        Fleet {
            instance: instance.to_owned(),
            started_at: start,
            asked_at: Some(start.shifted(round)),
            interval_ms: 1_000,
            answering: 1,
            missing: 0,
            concurrency: 4,
            in_flight: 0,
            waiting: 0,
            totals: Counts {
                processed,
                failed,
                ..Counts::default()
            },
            spread_percent: None,
            unserved_kinds: Vec::new(),
            kinds: Vec::new(),
            consumers: Vec::new(),
            next: None,
        }
    }

    #[test]
    fn rates_are_those_between_two_rounds_of_the_same_status_service() {
        let mut rates = Rates::default();
        let mut between = |instance, round, processed, failed| {
            rates.between_rounds(&fleet(instance, round, processed, failed))
        };
        assert_eq!(between("a", 0, 100, 0), None, "one round tells no rate");
        assert_eq!(
            between("b", 500, 7_000, 50),
            None,
            "another one counts for itself"
        );
        assert_eq!(between("a", 2_000, 300, 10), Some((100.0, 5.0)));
        assert_eq!(
            between("a", 2_000, 300, 10),
            Some((100.0, 5.0)),
            "the same round"
        );
        assert_eq!(between("b", 1_500, 7_010, 50), Some((10.0, 0.0)));
    }
}
