use std::fmt;
use std::ops::RangeInclusive;

/// Line numbers, shown as ranges: `3-900, 905`.
#[derive(Debug, Default)]
pub(super) struct LineRanges {
    ranges: Vec<RangeInclusive<u64>>,
    /// How many lines are in none of the ranges.
    more: u64,
}

impl LineRanges {
    /// The most ranges.
    const MOST_RANGES: usize = 1_000;

    /// Adds a line that comes after all lines so far.
    pub(super) fn add(&mut self, line: u64) {
        let room = self.ranges.len() < Self::MOST_RANGES;
        match self.ranges.last_mut() {
            _ if self.more > 0 => self.more += 1,
            Some(last) if *last.end() + 1 == line => *last = *last.start()..=line,
            _ if room => self.ranges.push(line..=line),
            _ => self.more = 1,
        }
    }
}

impl fmt::Display for LineRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.ranges.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: impl IntoIterator<Item = u64>) -> String {
        let mut ranges = LineRanges::default();
        for line in lines {
            ranges.add(line);
        }
        ranges.to_string()
    }

    #[test]
    fn all_lines_are_shown_as_few_ranges() {
        assert_eq!(shown([7]), "7");
        assert_eq!(
            shown((3..=900).chain([905, 907, 908])),
            "3-900, 905, 907-908"
        );
        assert_eq!(shown(1..=10_000_000), "1-10000000");
    }

    #[test]
    fn endlessly_many_gaps_do_not_take_endless_memory() {
        let text = shown((1..=10_000).step_by(2));
        assert!(text.starts_with("1, 3, 5, "), "{text}");
        assert!(text.ends_with(", 1997, 1999 and 4000 more"), "{text}");
    }
}
