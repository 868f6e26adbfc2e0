//! The checker: judges a history, and knows nothing of how it came about.

mod figures;
mod rules;
mod story;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::Event;
pub(super) use figures::Figures;
pub(super) use rules::{Rule, Violation};
use story::Story;

/// What a history says.
pub(super) struct Verdict {
    pub(super) figures: Figures,
    pub(super) violations: Vec<Violation>,
}

/// How many violations are shown; the others are counted.
const SHOWN: usize = 20;

/// Judges a history.
pub(super) fn check(events: &[Event]) -> Verdict {
    let story = Story::of(events);
    let (mut violations, repetitions) = rules::of_each_job(&story);
    violations.extend(rules::of_keys(&story));
    violations.extend(rules::of_the_whole(&story));
    Verdict {
        figures: Figures::of(&story, &repetitions, &violations),
        violations,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.figures)?;
        if self.violations.is_empty() {
            return writeln!(f, "violations     none");
        }
        writeln!(f, "violations     {}", self.violations.len())?;
        for violation in self.violations.iter().take(SHOWN) {
            let job = violation.job.map(|id| format!(" {id}"));
            let job = job.unwrap_or_default();
            writeln!(f, "  {}{job}: {}", violation.rule, violation.text)?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "  and {} more", self.violations.len() - SHOWN)?;
        }
        Ok(())
    }
}
