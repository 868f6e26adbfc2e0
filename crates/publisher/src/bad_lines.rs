use std::fmt;
use std::ops::RangeInclusive;

/// The numbers of all lines that are not jobs, as ranges: `3-900, 905`.
#[derive(Debug, Default)]
pub(crate) struct BadLines {
    ranges: Vec<RangeInclusive<u64>>,
    /// Lines beyond the last range that is named.
    more: u64,
}

impl BadLines {
    /// So many ranges are named, which is more than anybody reads.
    const NAMED: usize = 1_000;

    /// Adds a line that comes after all the others.
    pub(crate) fn add(&mut self, line: u64) {
        let room = self.ranges.len() < Self::NAMED;
        match self.ranges.last_mut() {
            _ if self.more > 0 => self.more += 1,
            Some(last) if *last.end() + 1 == line => *last = *last.start()..=line,
            _ if room => self.ranges.push(line..=line),
            _ => self.more = 1,
        }
    }
}

impl fmt::Display for BadLines {
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

    fn named(lines: impl IntoIterator<Item = u64>) -> String {
        let mut bad = BadLines::default();
        for line in lines {
            bad.add(line);
        }
        bad.to_string()
    }

    #[test]
    fn all_of_them_are_named_in_few_words() {
        assert_eq!(named([7]), "7");
        assert_eq!(
            named((3..=900).chain([905, 907, 908])),
            "3-900, 905, 907-908"
        );
        assert_eq!(named(1..=10_000_000), "1-10000000");
    }

    #[test]
    fn endlessly_many_gaps_do_not_take_endless_memory() {
        let text = named((1..=10_000).step_by(2));
        assert!(text.starts_with("1, 3, 5, "), "{text}");
        assert!(text.ends_with(", 1997, 1999 and 4000 more"), "{text}");
    }
}
