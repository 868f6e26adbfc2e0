use serde::{Deserialize, Serialize};

/// Quantiles of run times in milliseconds, exact to about 1 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct RunTime {
    /// Half of the runs were not longer.
    pub p50: f64,
    /// 90 of 100 were not longer.
    pub p90: f64,
    /// 99 of 100 were not longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// How many runs took how long. The counts only grow, so the difference of two answers tells what ran
/// between them.
///
/// The number at position `n` counts the runs of at most `0.1 · 2^(n/2)` milliseconds that were longer
/// than the bound of the position before it. There are at most 56 numbers, and the last one also counts
/// all longer runs. Zeros at the end are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
#[cfg_attr(feature = "schema", schemars(extend("maxItems" = 56)))]
pub struct RunCounts(Vec<u64>);

/// ```
/// use common::RunCounts;
///
/// let mut counts = RunCounts::default();
/// counts.add(0.05, 2);
/// counts.add(1.5, 1);
/// assert_eq!(counts.count(), 3);
/// assert_eq!(serde_json::to_string(&counts)?, "[2,0,0,0,0,0,0,0,1]");
/// # Ok::<(), serde_json::Error>(())
/// ```
impl RunCounts {
    /// The most numbers.
    pub const MAX_LEN: usize = 56;

    /// Counts runs of so many milliseconds.
    pub fn add(&mut self, milliseconds: f64, runs: u64) {
        // A number that is none becomes 0.
        let milliseconds = milliseconds.max(0.0);
        let mut positions = 0..Self::MAX_LEN;
        let found = positions.find(|&position| milliseconds <= bound(position));
        let position = found.unwrap_or(Self::MAX_LEN - 1);
        if self.0.len() <= position {
            self.0.resize(position + 1, 0);
        }
        self.0[position] = self.0[position].saturating_add(runs);
    }

    /// How many runs are counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, &runs| sum.saturating_add(runs))
    }

    /// Whether no run is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&runs| runs == 0)
    }

    /// The runs that are counted here and not in an earlier answer.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.0.iter().copied().chain(std::iter::repeat(0));
        let numbers = self.0.iter().zip(before);
        let numbers = numbers.map(|(now, then)| now.saturating_sub(then));
        numbers.collect::<Vec<_>>().into()
    }

    /// The quantiles of these runs, exact to about 20 %; `None` if there are none.
    #[must_use]
    pub fn run_time(&self) -> Option<RunTime> {
        if self.is_empty() {
            return None;
        }
        let longest = self.0.iter().rposition(|&runs| runs > 0)?;
        Some(RunTime {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max: bound(longest),
        })
    }

    /// Within a position, runs are taken as spread evenly between its bounds.
    fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.count() as f64;
        let mut below = 0.0;
        for (position, &runs) in self.0.iter().enumerate() {
            let runs = runs as f64;
            if runs > 0.0 && below + runs >= rank {
                let upper = bound(position);
                let lower = if position == 0 {
                    0.0
                } else {
                    bound(position - 1)
                };
                return lower + (upper - lower) * ((rank - below) / runs).clamp(0.0, 1.0);
            }
            below += runs;
        }
        bound(self.0.len().saturating_sub(1))
    }
}

/// The longest run that is counted at a position, in milliseconds.
fn bound(position: usize) -> f64 {
    0.1 * 2_f64.powf(position as f64 / 2.0)
}

impl From<Vec<u64>> for RunCounts {
    /// Numbers beyond the last position are left out.
    fn from(mut numbers: Vec<u64>) -> Self {
        numbers.truncate(Self::MAX_LEN);
        let len = numbers
            .iter()
            .rposition(|&runs| runs > 0)
            .map_or(0, |at| at + 1);
        numbers.truncate(len);
        Self(numbers)
    }
}

impl From<RunCounts> for Vec<u64> {
    fn from(counts: RunCounts) -> Self {
        counts.0
    }
}

impl std::ops::AddAssign<&Self> for RunCounts {
    /// Saturates: the numbers come from the wire, and may be anything.
    fn add_assign(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (sum, runs) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_add(*runs);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(runs: &[(f64, u64)]) -> RunCounts {
        let mut counts = RunCounts::default();
        for (milliseconds, count) in runs {
            counts.add(*milliseconds, *count);
        }
        counts
    }

    #[test]
    fn a_run_is_counted_at_the_first_bound_that_is_not_shorter() {
        for (milliseconds, position) in [
            (0.0, 0),
            (0.1, 0),
            (0.2, 2),
            (0.21, 3),
            (31.5, 17),
            (1e12, 55),
            (f64::NAN, 0),
            (-1.0, 0),
        ] {
            let numbers: Vec<u64> = of(&[(milliseconds, 1)]).into();
            assert_eq!(numbers.len(), position + 1, "{milliseconds}");
        }
    }

    #[test]
    fn the_difference_of_two_answers_is_what_ran_between_them() {
        let earlier = of(&[(5.0, 1_000_000)]);
        let mut later = earlier.clone();
        later += &of(&[(800.0, 100)]);
        let between = later.since(&earlier);
        assert_eq!(between.count(), 100);
        let run = between.run_time().unwrap();
        for quantile in [run.p50, run.p90, run.p99, run.max] {
            assert!((640.0..960.0).contains(&quantile), "{run:?}");
        }
        assert_eq!(later.since(&later).run_time(), None);
    }

    #[test]
    fn counts_on_the_wire_are_a_short_list_of_numbers() {
        assert_eq!(serde_json::to_string(&of(&[(0.2, 3)])).unwrap(), "[0,0,3]");
        let long = format!("[{}1]", "0,".repeat(1_000));
        assert!(serde_json::from_str::<RunCounts>(&long).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_fifth_of_the_true_ones(mut runs in proptest::collection::vec(0.2..1e6, 1..50)) {
            let run = of(&runs.iter().map(|run| (*run, 1)).collect::<Vec<_>>()).run_time().unwrap();
            runs.sort_by(f64::total_cmp);
            let true_median = runs[(runs.len() - 1) / 2];
            prop_assert!(run.p50 > true_median / 1.42 && run.p50 < true_median * 1.42);
            prop_assert!(run.p50 <= run.p90 && run.p90 <= run.p99 && run.p99 <= run.max);
        }

        #[test]
        fn no_numbers_make_it_panic(one: Vec<u64>, other: Vec<u64>) {
            let (mut one, other) = (RunCounts::from(one), RunCounts::from(other));
            one += &other;
            prop_assert!(one.since(&other).count() <= one.count());
            let _ = one.run_time();
        }
    }
}
