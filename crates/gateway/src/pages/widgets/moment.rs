use std::fmt;
use std::time::Duration;

use askama::filters::HtmlSafe;
use common::Timestamp;

use super::text::span;

/// A time on a page: how long ago it was, with the exact time as a tooltip.
pub(crate) struct Moment {
    at: Timestamp,
    now: Timestamp,
}

/// It contains only digits and words of our own.
impl HtmlSafe for Moment {}

impl Moment {
    pub(crate) fn of(at: Timestamp) -> Self {
        let now = Timestamp::now();
        Self { at, now }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = self.at.milliseconds_ahead_of(self.now);
        let span = span(Duration::from_millis(ahead.unsigned_abs()));
        write!(
            f,
            r#"<time datetime="{0}" title="{0}">"#,
            self.at.to_string()
        )?;
        match ahead {
            // The clocks of two machines differ a little.
            -999..=999 => f.write_str("now")?,
            1000.. => write!(f, "in {span}")?,
            _ => write!(f, "{span} ago")?,
        }
        f.write_str("</time>")
    }
}
