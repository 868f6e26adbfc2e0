//! Whether and when another attempt may succeed, according to the answer of a service.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Longer waits are cut to this.
const MAX: Duration = Duration::from_hours(24);

/// The wait from `now` that a header `Retry-After` (RFC 9110, section 10.2.3) asks for; `None` if
/// the value is neither a number of seconds nor a date.
pub(super) fn retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        // The date format of HTTP is one that RFC 2822 allows.
        let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
        // A date in the past means now.
        Duration::try_from(date - now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX))
}

/// Whether a status code, of HTTP or of a NATS service, says that another attempt may succeed.
pub(super) fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let now = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        let read = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(read("120"), Some(120));
        assert_eq!(read(" 0 "), Some(0));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:07 GMT"), Some(0));
        assert_eq!(read("Sun, 06 Nov 2094 08:49:07 GMT"), Some(86_400));
        assert_eq!(read("99999999999999999999999"), Some(86_400));
        for value in ["", "soon", "-1", "1.5", "+5", "1994-11-06"] {
            assert_eq!(read(value), None, "{value:?}");
        }
    }
}
