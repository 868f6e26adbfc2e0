//! The fleet as it is served on `jobs.fleet`.

use std::time::Instant;

use common::{Fleet, FleetMember, Presence, Timestamp};

use super::FleetTracker;
use super::member::Member;
use crate::asking::InstanceId;

impl FleetTracker {
    /// The fleet with all its consumers. `about` holds the fields that describe this service, and
    /// `now` is the same moment by two clocks.
    pub(crate) fn view(&self, about: &Fleet, now: (Instant, Timestamp)) -> Fleet {
        let last = self.last_round();
        let mut view = Fleet {
            asked_at: last.asked_at.map(|asked_at| on_the_clock(asked_at, now)),
            totals: self.totals(),
            spread_percent: last
                .spread
                .map(|spread| [spread.min * 100.0, spread.max * 100.0]),
            unserved_kinds: last.unserved_kinds.clone(),
            kinds: last.kinds.clone(),
            consumers: Vec::with_capacity(self.members().len()),
            ..about.clone()
        };
        for (id, member) in self.members() {
            let member = member.view(id, now);
            if member.presence == Presence::Present {
                view.answering += 1;
                view.concurrency += u64::from(member.concurrency);
                view.in_flight += u64::from(member.in_flight);
                view.waiting = view.waiting.saturating_add(member.waiting);
            } else {
                view.missing += 1;
            }
            view.consumers.push(member);
        }
        view
    }
}

impl Member {
    fn view(&self, id: &InstanceId, now: (Instant, Timestamp)) -> FleetMember {
        FleetMember {
            consumer: id.consumer.clone(),
            host: self.host.clone(),
            version: self.version.clone(),
            started_at: id.started_at,
            // By the last round, as in /metrics, and not by what was reported.
            presence: if self.answered {
                Presence::Present
            } else {
                Presence::Missing
            },
            state: self.state,
            concurrency: self.concurrency,
            in_flight: self.in_flight,
            waiting: self.waiting,
            counts: self.counts,
            run_ms: self.run_ms,
            answered_at: on_the_clock(self.heard, now),
            took_ms: self.took.as_secs_f64() * 1000.0,
        }
    }
}

/// Converts a moment to the clock of timestamps.
fn on_the_clock(then: Instant, (now, clock): (Instant, Timestamp)) -> Timestamp {
    let ago = now.saturating_duration_since(then).as_millis();
    clock.shifted(-i64::try_from(ago).unwrap_or(i64::MAX))
}
