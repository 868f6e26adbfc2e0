//! Divides the free slots among the priorities of a kind.
//!
//! A priority has its turn as often as its weight says: 8 of 12 slots go to high, 3 to normal and 1 to low
//! while jobs of all three wait (smooth weighted round robin, so the turns of one are spread). A priority
//! without waiting jobs leaves its turns to the others. In its turn it is only asked for one message, without
//! a slot, so that its next job is seen at once.

use common::Priority;

/// The durable consumer of one priority, as far as its turns are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) priority: Priority,
    /// Decides whose turn is next: the highest. It rises by the weight with each turn, and falls by the weights
    /// of all that take part when the turn is its own.
    pub(crate) credit: i64,
    /// How many jobs wait, as far as is known.
    pub(crate) waiting: usize,
    /// Whether it may be asked for messages now: it has no open pull.
    pub(crate) is_ready: bool,
    /// How many messages to ask for: what [`divide`] decides.
    pub(crate) ask: usize,
}

impl Turn {
    fn weight(&self) -> i64 {
        self.priority.weight().into()
    }

    /// Whether it takes part in the next turn.
    fn takes_part(&self) -> bool {
        if self.waiting > 0 {
            self.ask < self.waiting
        } else {
            self.is_ready && self.ask == 0
        }
    }
}

/// Divides free slots, and returns how many are left. The turns have to be in the order of their
/// priorities.
///
/// The turn of a priority whose pull is still open passes without a question: the slot is kept for its next
/// pull, which comes soon. Otherwise each priority would get as much as the others when slots become free
/// faster than pulls are answered.
pub(crate) fn divide(turns: &mut [Turn], mut room: usize) -> usize {
    if turns.iter().all(|turn| turn.waiting == 0) {
        for turn in turns.iter_mut().filter(|turn| turn.is_ready) {
            turn.ask = 1;
            room = room.saturating_sub(1);
        }
        return room;
    }
    // The turns that pass: they are taken back at the end, so that they come again.
    let mut passed = vec![0; turns.len()];
    while room > 0 && turns.iter().any(|turn| turn.is_ready && turn.takes_part()) {
        let part: Vec<_> = (0..turns.len())
            .filter(|at| turns[*at].takes_part())
            .collect();
        for at in &part {
            turns[*at].credit += turns[*at].weight();
        }
        let all: i64 = part.iter().map(|at| turns[*at].weight()).sum();
        // The first one of those that are ahead, which has the highest priority.
        let Some(next) = part
            .iter()
            .copied()
            .rev()
            .max_by_key(|at| turns[*at].credit)
        else {
            break;
        };
        turns[next].credit -= all;
        if turns[next].waiting > 0 {
            room -= 1;
        }
        if turns[next].is_ready {
            turns[next].ask += 1;
        } else {
            for at in part {
                passed[at] += turns[at].weight();
            }
            passed[next] -= all;
        }
    }
    for (turn, passed) in turns.iter_mut().zip(passed) {
        turn.credit -= passed;
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(waiting: [usize; 3]) -> Vec<Turn> {
        let turn = |(priority, waiting)| Turn {
            priority,
            credit: 0,
            waiting,
            is_ready: true,
            ask: 0,
        };
        Priority::ALL.into_iter().zip(waiting).map(turn).collect()
    }

    fn asked(turns: &[Turn]) -> Vec<usize> {
        turns.iter().map(|turn| turn.ask).collect()
    }

    #[test]
    fn while_all_wait_slots_are_divided_by_weight_however_few_are_free_at_a_time() {
        let mut all = turns([100, 100, 100]);
        assert_eq!(divide(&mut all, 24), 0);
        assert_eq!(asked(&all), [16, 6, 2]);

        let mut one_by_one = turns([100, 100, 100]);
        let mut order = Vec::new();
        for _ in 0..24 {
            for turn in &mut one_by_one {
                turn.ask = 0;
            }
            assert_eq!(divide(&mut one_by_one, 1), 0);
            order.extend(one_by_one.iter().position(|turn| turn.ask == 1));
        }
        for half in order.chunks(12) {
            let of = |index| half.iter().filter(|turn| **turn == index).count();
            assert_eq!([of(0), of(1), of(2)], [8, 3, 1], "{order:?}");
        }
    }

    #[test]
    fn unused_shares_go_to_whoever_has_jobs_and_the_others_are_asked_for_one() {
        let mut turns = turns([2, 0, 100]);
        assert_eq!(divide(&mut turns, 12), 0);
        assert_eq!(asked(&turns), [2, 1, 10]);
    }

    #[test]
    fn what_nobody_needs_is_left() {
        let mut none = turns([0, 0, 0]);
        assert_eq!(divide(&mut none, 12), 9);
        assert_eq!(asked(&none), [1, 1, 1]);
        let mut few = turns([0, 3, 0]);
        assert_eq!(divide(&mut few, 12), 9);
        assert_eq!(asked(&few), [1, 3, 1]);
    }

    #[test]
    fn a_slot_is_kept_for_a_priority_whose_pull_is_still_open() {
        let mut turns = turns([100, 0, 100]);
        turns[0].is_ready = false;
        turns[1].is_ready = false;
        assert_eq!(divide(&mut turns, 9), 0);
        assert_eq!(asked(&turns), [0, 0, 1]);
        // It has its turns when it can be asked again.
        turns[0].is_ready = true;
        turns[2].ask = 0;
        assert_eq!(divide(&mut turns, 9), 0);
        assert_eq!(asked(&turns), [9, 0, 0]);
    }
}
