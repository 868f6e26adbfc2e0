//! Which jobs a page shows, or a form means.

use client::{Filter, SearchText};
use common::{JobKind, JobState, KindPattern, Timestamp};
use serde::{Deserialize, Serialize};

use super::widgets::text;

/// A choice of jobs, as addresses and forms contain it. Empty fields do not restrict it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobFilter {
    pub(crate) state: String,
    pub(crate) kind: String,
    pub(crate) since: String,
    pub(crate) until: String,
    pub(crate) text: String,
}

impl JobFilter {
    /// The same for the client library.
    ///
    /// # Errors
    /// When a field is wrong: which one, in words.
    pub(crate) fn filter(&self) -> Result<Filter, String> {
        let state = optional(&self.state, |state| {
            let found = JobState::stored().find(|known| known.as_str() == state);
            found.ok_or_else(|| format!("invalid state {:?}", text::cut(state, 64)))
        })?;
        let kind = optional(&self.kind, |kind| {
            kind.parse::<KindPattern>()
                .map_err(|error| error.to_string())
        })?;
        let text = optional(&self.text, |text| {
            text.parse::<SearchText>()
                .map_err(|error| error.to_string())
        })?;
        Ok(Filter {
            state,
            kind,
            since: optional(&self.since, past)?,
            until: optional(&self.until, past)?,
            text,
        })
    }

    /// The same with fields that are short and have no spaces around, and with times that stay as they
    /// are on the next page.
    pub(crate) fn tidy(self, filter: Result<&Filter, &String>) -> Self {
        let time = |typed: &str, read: Option<Timestamp>| {
            read.map_or_else(|| text::cut(typed.trim(), 64), |read| read.to_string())
        };
        let (since, until) = match filter {
            Ok(filter) => (filter.since, filter.until),
            Err(_) => (None, None),
        };
        Self {
            state: text::cut(self.state.trim(), 64),
            kind: text::cut(self.kind.trim(), JobKind::MAX_LEN),
            since: time(&self.since, since),
            until: time(&self.until, until),
            text: text::cut(self.text.trim(), SearchText::MAX_LEN),
        }
    }

    /// Whether it chooses all jobs.
    pub(crate) fn is_all(&self) -> bool {
        let Self {
            state,
            kind,
            since,
            until,
            text,
        } = self;
        let mut fields = [state, kind, since, until, text].into_iter();
        fields.all(|field| field.trim().is_empty())
    }

    /// The filter as the query of an address.
    pub(crate) fn query(&self) -> String {
        // Texts can always be encoded.
        serde_urlencoded::to_string(self).unwrap_or_default()
    }
}

/// Reads a field, if it is not empty.
fn optional<T>(
    field: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match field.trim() {
        "" => Ok(None),
        field => read(field).map(Some),
    }
}

/// Reads a time, or how long ago it was.
fn past(field: &str) -> Result<Timestamp, String> {
    let age =
        || -> Option<Timestamp> { Timestamp::now().before(humantime::parse_duration(field).ok()?) };
    let read = field.parse().ok().or_else(age);
    read.ok_or_else(|| {
        format!(
            "{:?} is neither a time such as 2026-01-31T09:30:00Z nor a duration such as 2h",
            text::cut(field, 64)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Filter, String> {
        let filter: JobFilter = serde_urlencoded::from_str(query).unwrap();
        filter.filter()
    }

    #[test]
    fn fields_are_read_without_the_spaces_around_them_and_empty_ones_choose_all() {
        assert!(read("state=&kind=+&since=&until=&text=+").unwrap().is_all());
        let filter = read("state=dead&kind=+mail.*+&since=2h&until=2026-01-31T09:30:00Z&text=+x+");
        let filter = filter.unwrap();
        assert_eq!(filter.state, Some(JobState::Dead));
        assert!(filter.kind.unwrap().matches("mail.send"));
        assert_eq!(filter.text.unwrap().as_str(), "x");
        let age = Timestamp::now().since(filter.since.unwrap());
        assert!((7_200..7_300).contains(&age.as_secs()), "{age:?}");
        assert_eq!(filter.until.unwrap().to_string(), "2026-01-31T09:30:00Z");
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        let long = format!("text={}", "x".repeat(257));
        for query in [
            "state=lost",
            "kind=mail*",
            "since=soon",
            "until=2026",
            &long,
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_duration_becomes_a_time_that_stays_the_same_on_the_next_page() {
        let asked = JobFilter {
            since: " 2h ".to_owned(),
            kind: " mail.* ".to_owned(),
            ..JobFilter::default()
        };
        let filter = asked.filter();
        let tidy = asked.tidy(filter.as_ref());
        assert_eq!(tidy.kind, "mail.*");
        assert_eq!(tidy.filter().unwrap().since, filter.unwrap().since);
    }
}
