//! Numbers that were measured, and what they should be.

use serde::Serialize;
use serde_json::{Value, json};

use super::probe::Quantiles;
use super::stand::Measured;
use super::usage::Noise;

/// One thing that was measured several times.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) goal: Option<Goal>,
    pub(super) rounds: Vec<Round>,
}

/// One measurement of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Round {
    pub(super) bare: Option<f64>,
    pub(super) ours: f64,
    pub(super) noise: Noise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Megabytes,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// At least this part of what bare has.
    RatioAtLeast(f64),
    /// At most so many times what bare has.
    RatioAtMost(f64),
    /// Not more than bare and this.
    AddsAtMost(f64),
    /// Less than this, whatever bare has.
    Below(f64),
    /// This or more, whatever bare has.
    AtLeast(f64),
}

/// The middle of some numbers, and how far they are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        let middle = numbers.len() / 2;
        let median = if numbers.len().is_multiple_of(2) {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        } else {
            numbers[middle]
        };
        Some(Self { median, min, max })
    }
}

impl Figure {
    /// One part of what each round gave.
    pub(super) fn of<T>(
        name: impl Into<String>,
        unit: Unit,
        measured: &[Measured<T>],
        part: impl Fn(&T) -> f64,
    ) -> Self {
        let rounds = measured.iter().map(|round| Round {
            bare: round.bare.as_ref().map(&part),
            ours: part(&round.ours),
            noise: round.noise,
        });
        Self {
            name: name.into(),
            unit,
            goal: None,
            rounds: rounds.collect(),
        }
    }

    /// The median of the times that each round gave, and the 99th percentile.
    pub(super) fn quantiles(name: &str, measured: &[Measured<Quantiles>]) -> [Self; 2] {
        let figure = |of: &str, part: fn(&Quantiles) -> u64| {
            let part = |quantiles: &_| part(quantiles) as f64 / 1e3;
            Self::of(format!("{name}, {of}"), Unit::Microseconds, measured, part)
        };
        [
            figure("p50", |quantiles| quantiles.p50),
            figure("p99", |quantiles| quantiles.p99),
        ]
    }

    pub(super) fn goal(self, goal: Goal) -> Self {
        Self {
            goal: Some(goal),
            ..self
        }
    }

    pub(super) fn bare(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| round.bare))
    }

    pub(super) fn ours(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|round| round.ours))
    }

    /// Ours to bare, round by round.
    pub(super) fn ratio(&self) -> Option<Spread> {
        let ratios = self.rounds.iter();
        Spread::of(ratios.filter_map(|round| Some(round.ours / round.bare?)))
    }

    /// What ours has more than bare, round by round.
    fn added(&self) -> Option<Spread> {
        let added = self.rounds.iter();
        Spread::of(added.filter_map(|round| Some(round.ours - round.bare?)))
    }

    /// Whether the goal is reached by the median; nothing without a goal.
    pub(super) fn met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::RatioAtLeast(least) => self.ratio()?.median >= least,
            Goal::RatioAtMost(most) => self.ratio()?.median <= most,
            Goal::AddsAtMost(most) => self.added()?.median <= most,
            Goal::Below(limit) => self.ours()?.median < limit,
            Goal::AtLeast(least) => self.ours()?.median >= least,
        })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit.name(),
            "bare": self.bare(),
            "ours": self.ours(),
            "ratio": self.ratio(),
            "goal": self.goal.map(|goal| goal.show(self.unit)),
            "met": self.met(),
            "rounds": self.rounds,
        })
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "1/s",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Megabytes => "MB",
        }
    }

    pub(super) fn show(self, number: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", thousands(number)),
            _ => format!(
                "{number:.*} {}",
                usize::from(number < 100.0) * 2,
                self.name()
            ),
        }
    }
}

impl Goal {
    pub(super) fn show(self, unit: Unit) -> String {
        match self {
            Self::RatioAtLeast(least) => format!(">= {least:.2}x"),
            Self::RatioAtMost(most) => format!("<= {most:.2}x"),
            Self::AddsAtMost(most) => format!("<= bare + {}", unit.show(most)),
            Self::Below(limit) => format!("< {limit} {}", unit.name()),
            Self::AtLeast(least) => format!(">= {}", unit.show(least)),
        }
    }
}

/// A whole number with commas.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(goal: Goal, rounds: &[(f64, f64)]) -> Figure {
        let rounds: Vec<_> = rounds
            .iter()
            .map(|&(bare, ours)| Measured {
                bare: Some(bare),
                ours,
                noise: Noise::NONE,
            })
            .collect();
        Figure::of("speed", Unit::PerSecond, &rounds, |number| *number).goal(goal)
    }

    #[test]
    fn a_ratio_is_that_of_each_round_and_not_of_the_medians() {
        let goal = Goal::RatioAtLeast(0.8);
        let figure = figure(goal, &[(100.0, 90.0), (10.0, 7.0), (1000.0, 800.0)]);
        let wanted = Spread {
            median: 0.8,
            min: 0.7,
            max: 0.9,
        };
        assert_eq!(figure.ratio(), Some(wanted));
        assert_eq!(figure.met(), Some(true));
    }

    #[test]
    fn goals_are_held_against_the_median() {
        let rounds = [(1.0, 2.0), (1.0, 4.0)];
        assert_eq!(figure(Goal::RatioAtMost(3.0), &rounds).met(), Some(true));
        assert_eq!(figure(Goal::RatioAtMost(2.9), &rounds).met(), Some(false));
        assert_eq!(figure(Goal::Below(3.0), &rounds).met(), Some(false));
        assert_eq!(figure(Goal::Below(3.1), &rounds).met(), Some(true));
    }

    #[test]
    fn without_bare_there_is_no_ratio() {
        let alone = [Measured {
            bare: None,
            ours: 8.0,
            noise: Noise::NONE,
        }];
        let figure = Figure::of("memory", Unit::Megabytes, &alone, |mb| *mb);
        assert_eq!((figure.bare(), figure.ratio()), (None, None));
        assert_eq!(figure.goal(Goal::Below(10.0)).met(), Some(true));
    }

    #[test]
    fn times_are_told_in_microseconds_by_their_quantiles() {
        let times = |p50, p99| Quantiles {
            count: 100,
            p50,
            p99,
            max: 9_000_000,
        };
        let measured = [Measured {
            bare: Some(times(1_000, 3_000)),
            ours: times(2_000, 4_500),
            noise: Noise::NONE,
        }];
        let [p50, p99] = Figure::quantiles("wait", &measured);
        assert_eq!((&*p50.name, &*p99.name), ("wait, p50", "wait, p99"));
        let medians =
            |figure: &Figure| [figure.bare(), figure.ours()].map(|all| all.unwrap().median);
        assert_eq!((medians(&p50), medians(&p99)), ([1.0, 2.0], [3.0, 4.5]));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(Unit::PerSecond.show(1_234_567.4), "1,234,567/s");
        assert_eq!(Unit::PerSecond.show(999.0), "999/s");
        assert_eq!(Unit::Milliseconds.show(1.234), "1.23 ms");
        assert_eq!(Unit::Microseconds.show(1234.0), "1234 us");
    }
}
