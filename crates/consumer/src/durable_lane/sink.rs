use std::sync::{Arc, Weak};
use std::time::Duration;

use common::JobKind;
use tracing::warn;
use worker::{Lease, Settlement, Sink};

use crate::consumer::Consumer;
use crate::counters::Ending;
use crate::inbox::{WaitingJob, take_matching};
use crate::job_log::{Topic, loggable};
use crate::lock::lock;

/// The slots of the consumer, as the lane sees them. The lane does not keep the consumer alive.
pub(super) struct Slots(pub(super) Weak<Consumer>);

impl Sink for Slots {
    fn capacity(&self) -> usize {
        self.0.upgrade().map_or(0, |consumer| consumer.slots.len())
    }

    /// Durable jobs may use all slots, or half of them while core jobs wait: so both lanes
    /// progress.
    fn room(&self) -> usize {
        let Some(consumer) = self.0.upgrade() else {
            return 0;
        };
        let slots = consumer.slots.len();
        let held = consumer.durable.held();
        let limit = if consumer.inbox.waiting() > 0 {
            slots.div_ceil(2)
        } else {
            slots
        };
        limit.saturating_sub(held)
    }

    fn take(&self, jobs: Vec<Arc<Lease>>) {
        let Some(consumer) = self.0.upgrade() else {
            return;
        };
        consumer.durable.add_held(jobs.len());
        consumer.count_received(jobs.len() as u64);
        consumer.inbox.put_durable(jobs);
    }

    fn give_up_waiting(&self, longer_than: Duration) -> Vec<Arc<Lease>> {
        let Some(consumer) = self.0.upgrade() else {
            return Vec::new();
        };
        let waited = |job: &WaitingJob| match job {
            WaitingJob::Core(_) => false,
            WaitingJob::Durable(lease) => lease.age() > longer_than,
        };
        let mut waiting = consumer.inbox.take_matching(waited);
        for slot in &consumer.slots {
            waiting.extend(take_matching(&mut lock(slot).batch, waited));
        }
        consumer.durable.remove_held(waiting.len());
        waiting
            .into_iter()
            .filter_map(|job| match job {
                WaitingJob::Core(_) => None,
                WaitingJob::Durable(lease) => Some(lease),
            })
            .collect()
    }

    fn refused(&self, kind: Option<&JobKind>, settlement: &Settlement) {
        let Some(consumer) = self.0.upgrade() else {
            return;
        };
        let index = kind.and_then(|kind| consumer.kinds.find(kind));
        let counters = index.map_or(&consumer.durable.counters.others, |index| {
            &consumer.kinds[index].durable
        });
        let (ending, why) = match settlement {
            Settlement::Expired => (Ending::Expired, "its deadline has passed".to_owned()),
            Settlement::Dead { reason, error } => {
                let error = error.as_ref().map(loggable).unwrap_or_default();
                (Ending::Rejected, format!("{reason} {error}"))
            }
            _ => return,
        };
        counters.ended(ending);
        if consumer.log.may_log(Topic::Failure) {
            // The text repeats parts of the message, so it is logged escaped.
            warn!(job.kind = kind.map(tracing::field::display), why = ?why, "durable job not run");
        }
    }
}
