use std::collections::BTreeMap;

use common::Counts;

use crate::asking::InstanceId;
use crate::counts::difference;

/// The most instances that are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// The sum of the counts of all instances that have left the fleet.
///
/// An instance that was only cut off may come back. The last 10,000 instances are remembered, so that
/// the part of their counts that is in the sum already is not added again.
#[derive(Debug, Default)]
pub(super) struct Departed {
    sum: Counts,
    remembered: BTreeMap<InstanceId, Remembered>,
    /// The remembered instances in the order in which they left.
    order: BTreeMap<u64, InstanceId>,
    next: u64,
}

#[derive(Debug)]
struct Remembered {
    order: u64,
    counts: Counts,
}

impl Departed {
    /// The sum of all counts.
    pub(super) fn sum(&self) -> Counts {
        self.sum
    }

    /// Adds an instance with these counts, of which the part `already` is in the sum.
    pub(super) fn add(&mut self, id: InstanceId, counts: Counts, already: &Counts) {
        self.sum += difference(&counts, already);
        let order = self.next;
        self.next += 1;
        self.order.insert(order, id.clone());
        if let Some(before) = self.remembered.insert(id, Remembered { order, counts }) {
            self.order.remove(&before.order);
        }
        if self.order.len() > MAX_REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.remembered.remove(&oldest);
        }
    }

    /// Forgets an instance that is back, and returns its counts when it left; `None` if it is not
    /// remembered. These counts stay in the sum.
    pub(super) fn take_back(&mut self, id: &InstanceId) -> Option<Counts> {
        let remembered = self.remembered.remove(id)?;
        self.order.remove(&remembered.order);
        Some(remembered.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> InstanceId {
        InstanceId {
            consumer: format!("consumer-{n}"),
            started_at: "2026-01-31T09:30:00Z".parse().unwrap(),
        }
    }

    fn processed(processed: u64) -> Counts {
        Counts {
            processed,
            ..Counts::default()
        }
    }

    #[test]
    fn an_instance_that_comes_and_goes_is_in_the_sum_once() {
        let mut departed = Departed::default();
        departed.add(id(1), processed(10), &Counts::default());
        for counted in [15, 15, 40] {
            let already = departed.take_back(&id(1)).unwrap();
            assert_eq!(departed.take_back(&id(1)), None);
            departed.add(id(1), processed(counted), &already);
            assert_eq!(departed.sum().processed, counted);
        }
        assert_eq!(departed.order.len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_the_first_to_leave_is_forgotten_first() {
        let mut departed = Departed::default();
        for n in 0..MAX_REMEMBERED + 5 {
            departed.add(id(n), processed(1), &Counts::default());
        }
        assert_eq!(departed.remembered.len(), MAX_REMEMBERED);
        assert_eq!(departed.order.len(), MAX_REMEMBERED);
        assert_eq!(departed.sum().processed, MAX_REMEMBERED as u64 + 5);
        assert_eq!(departed.take_back(&id(4)), None);
        assert_eq!(departed.take_back(&id(5)), Some(processed(1)));
    }
}
