//! Numbers, times and states as text.

use std::time::Duration;

use common::{ConsumerState, DeadReason, JobState, Timestamp};

/// The time of day, for captions.
pub(crate) fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    let time = text.split('T').nth(1).unwrap_or(&text);
    time.get(..8).unwrap_or(time).to_owned()
}

/// A duration in its two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Milliseconds, with three significant digits; `-` if the number is not known.
pub(crate) fn milliseconds(value: f64) -> String {
    match value {
        value if !value.is_finite() || value < 0.0 => "-".to_owned(),
        0.0 => "0 ms".to_owned(),
        value if value < 10.0 => format!("{value:.2} ms"),
        value if value < 100.0 => format!("{value:.1} ms"),
        value if value < 1_000.0 => format!("{value:.0} ms"),
        value if value < 60_000.0 => format!("{:.2} s", value / 1_000.0),
        value => span(Duration::try_from_secs_f64(value / 1_000.0).unwrap_or(Duration::MAX)),
    }
}

/// A whole number with thousands separators.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of any size, short, for the axis of a chart.
pub(crate) fn brief(number: f64) -> String {
    match number {
        number if number >= 10_000_000.0 => format!("{:.0}M", number / 1e6),
        number if number >= 1_000_000.0 => format!("{:.1}M", number / 1e6),
        number if number >= 10_000.0 => format!("{:.0}k", number / 1e3),
        number if number >= 1_000.0 => format!("{:.1}k", number / 1e3),
        number if number >= 10.0 || number.fract() == 0.0 => format!("{number:.0}"),
        number if number >= 1.0 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}

/// A number of bytes, in the largest unit that fits.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A part of a whole, in percent; 0 if the whole is 0.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    100.0 * part as f64 / whole as f64
}

/// A percentage as text.
pub(crate) fn share(percent: f64) -> String {
    match percent {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.1 => "< 0.1 %".to_owned(),
        percent if percent < 10.0 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// A text, cut after `max` characters.
pub(crate) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The CSS class that colours a state. The word always stands beside it.
pub(crate) const fn tone(state: JobState) -> &'static str {
    match state {
        JobState::Scheduled => "later",
        JobState::Queued | JobState::Cancelled | JobState::Expired => "idle",
        JobState::Running => "busy",
        JobState::Retrying | JobState::Unreadable => "warn",
        JobState::Succeeded => "good",
        JobState::Dead => "bad",
    }
}

/// The CSS class that colours the state of a consumer.
pub(crate) const fn consumer_tone(state: ConsumerState) -> &'static str {
    match state {
        ConsumerState::Running => "good",
        ConsumerState::Saturated => "warn",
        ConsumerState::Draining => "later",
    }
}

/// Why a job was given up, in words.
pub(crate) const fn reason(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::AttemptsUsedUp => "attempts used up",
        DeadReason::Permanent => "permanent failure",
        DeadReason::Undecodable => "not a readable job",
        DeadReason::UnreadableHeaders => "headers cannot be read",
        DeadReason::NoHandler => "no handler",
        DeadReason::DeliveriesExhausted => "lost with its consumers",
        DeadReason::LostSchedule => "lost while it waited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_readable() {
        let spans =
            [0, 59, 60, 61, 3_600, 3_660, 90_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(
            spans,
            [
                "0 s",
                "59 s",
                "1 min",
                "1 min 1 s",
                "1 h",
                "1 h 1 min",
                "1 d 1 h"
            ]
        );
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [512, 2_048, 2 << 30].map(bytes),
            ["512 B", "2.0 KiB", "2.0 GiB"]
        );
        let times = [f64::NAN, 0.25, 12.34, 250.0, 2_500.0, 90_000.0].map(milliseconds);
        assert_eq!(
            times,
            ["-", "0.25 ms", "12.3 ms", "250 ms", "2.50 s", "1 min 30 s"]
        );
        assert_eq!(
            [0.0, 0.01, 5.0, 50.0].map(share),
            ["0 %", "< 0.1 %", "5.0 %", "50 %"]
        );
        assert_eq!(
            [0.0, 0.5, 2.5, 1_500.0, 25_000.0, 3e6].map(brief),
            ["0", "0.50", "2.5", "1.5k", "25k", "3.0M"]
        );
        assert_eq!(cut("äöü", 2), "äö…");
    }
}
