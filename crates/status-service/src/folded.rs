use std::collections::BTreeMap;

use common::Counts;

use crate::InstanceId;
use crate::counts::above;

/// The most instances that are remembered.
const REMEMBERED: usize = 10_000;

/// What instances counted that are no longer in the fleet: one sum, however many there were.
///
/// An instance that was only cut off can come back. The last 10,000 that were folded are
/// remembered, so that what is in the sum already is not counted again.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    sum: Counts,
    remembered: BTreeMap<InstanceId, Remembered>,
    /// The remembered instances by age.
    order: BTreeMap<u64, InstanceId>,
    next: u64,
}

#[derive(Debug)]
struct Remembered {
    order: u64,
    counts: Counts,
}

impl Folded {
    /// What all of them counted.
    pub(crate) fn sum(&self) -> Counts {
        self.sum
    }

    /// Takes in an instance that counted `counts`, of which `already` is in the sum.
    pub(crate) fn fold(&mut self, id: InstanceId, counts: Counts, already: &Counts) {
        self.sum += above(&counts, already);
        let order = self.next;
        self.next += 1;
        self.order.insert(order, id.clone());
        if let Some(before) = self.remembered.insert(id, Remembered { order, counts }) {
            self.order.remove(&before.order);
        }
        if self.order.len() > REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.remembered.remove(&oldest);
        }
    }

    /// What an instance that is back had counted when it was folded; all of it is in the sum, and
    /// stays there.
    pub(crate) fn recall(&mut self, id: &InstanceId) -> Option<Counts> {
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
        let mut folded = Folded::default();
        folded.fold(id(1), processed(10), &Counts::default());
        for counted in [15, 15, 40] {
            let already = folded.recall(&id(1)).unwrap();
            assert_eq!(folded.recall(&id(1)), None);
            folded.fold(id(1), processed(counted), &already);
            assert_eq!(folded.sum().processed, counted);
        }
        assert_eq!(folded.order.len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten_first() {
        let mut folded = Folded::default();
        for n in 0..REMEMBERED + 5 {
            folded.fold(id(n), processed(1), &Counts::default());
        }
        assert_eq!(folded.remembered.len(), REMEMBERED);
        assert_eq!(folded.order.len(), REMEMBERED);
        assert_eq!(folded.sum().processed, REMEMBERED as u64 + 5);
        assert_eq!(folded.recall(&id(4)), None);
        assert_eq!(folded.recall(&id(5)), Some(processed(1)));
    }
}
