//! The values of flags.

use std::io::Read as _;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use common::{DeadReason, JobId, JobState, OnConflict, Priority, Timestamp, Until, check_portable};
use serde_json::value::RawValue;

/// Any JSON, kept as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Payload(pub(crate) Box<RawValue>);

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (json, source) = match text.strip_prefix('@') {
            Some(path) => {
                let json = std::fs::read_to_string(path)
                    .map_err(|error| format!("cannot read {path}: {error}"))?;
                (json, format!("{path}: "))
            }
            None if text == "-" => {
                let mut json = String::new();
                let read = std::io::stdin().read_to_string(&mut json);
                read.map_err(|error| format!("cannot read standard input: {error}"))?;
                (json, "standard input: ".to_owned())
            }
            None => (text.to_owned(), String::new()),
        };
        // Checked by parsing, and not by `RawValue::from_string`, which keeps white space around.
        let payload: Box<RawValue> = serde_json::from_str(json.trim())
            .map_err(|error| format!("{source}not JSON: {error}"))?;
        check_portable(&payload).map_err(|error| format!("{source}{error}"))?;
        Ok(Self(payload))
    }
}

pub(crate) fn state() -> impl TypedValueParser<Value = JobState> {
    words(JobState::ALL.map(|state| (state.as_str(), state)))
}

/// A state in which a job has not ended.
pub(crate) fn open_state() -> impl TypedValueParser<Value = JobState> {
    let open = JobState::ALL.iter().filter(|state| !state.is_final());
    PossibleValuesParser::new(open.map(|state| state.as_str())).try_map(|text| {
        let mut states = JobState::ALL.into_iter();
        let found = states.find(|state| state.as_str() == text);
        found.ok_or("not one of the words")
    })
}

pub(crate) fn reason() -> impl TypedValueParser<Value = DeadReason> {
    words(DeadReason::ALL.map(|reason| (reason.as_str(), reason)))
}

pub(crate) fn until() -> impl TypedValueParser<Value = Until> {
    words([("ended", Until::Ended), ("started", Until::Started)])
}

pub(crate) fn on_conflict() -> impl TypedValueParser<Value = OnConflict> {
    words([("reject", OnConflict::Reject), ("keep", OnConflict::Keep)])
}

pub(crate) fn priority() -> impl TypedValueParser<Value = Priority> {
    words([
        ("high", Priority::High),
        ("normal", Priority::Normal),
        ("low", Priority::Low),
    ])
}

/// Parses one of these words; shell completions offer them.
fn words<T: Copy + Send + Sync + 'static, const N: usize>(
    values: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.map(|(word, _)| word)).try_map(move |text| {
        let found = values.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or("not one of the words")
    })
}

/// The id of a job, which may be pasted with spaces around it.
pub(crate) fn id(text: &str) -> Result<JobId, String> {
    text.trim()
        .parse()
        .map_err(|error| format!("not the id of a job: {error}"))
}

/// A time, or how long ago it was.
pub(crate) fn past(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let age = humantime::parse_duration(text).map_err(|_| {
        "neither a time such as 2026-01-31T09:30:00Z (RFC 3339) nor a duration such as 2h"
            .to_owned()
    })?;
    let at = Timestamp::now().before(age);
    at.ok_or_else(|| "too long ago".to_owned())
}

pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let parsed = text.parse();
    parsed.map_err(|_| "not a time such as 2026-01-31T09:30:00Z (RFC 3339)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_or_a_file_that_holds_it() {
        let read = |text: &str| text.parse::<Payload>().map(|payload| payload.0.to_string());
        assert_eq!(read(" [1.50, 2] ").unwrap(), "[1.50, 2]");
        assert!(read("{").unwrap_err().contains("not JSON"));
        let error = read("@/no/such/file").unwrap_err();
        assert!(error.contains("cannot read /no/such/file"), "{error}");
        let error = read(concat!("@", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap_err();
        assert!(error.contains("Cargo.toml: not JSON"), "{error}");
        let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
        let error = read(&deep).unwrap_err();
        assert!(error.contains("nested deeper than 128 levels"), "{error}");
    }

    #[test]
    fn a_time_of_the_past_is_a_time_or_how_long_ago_it_was() {
        assert_eq!(
            past("2026-01-31T09:30:00Z").unwrap(),
            moment("2026-01-31T09:30:00Z").unwrap()
        );
        let two_hours = Timestamp::now().since(past(" 2h ").unwrap());
        assert!(
            (7_200..7_300).contains(&two_hours.as_secs()),
            "{two_hours:?}"
        );
        for wrong in ["2026-01-31", "soon", "", "99999999999y"] {
            assert!(past(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_may_have_spaces_around_it() {
        let plain = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(id(&format!(" {plain}\u{a0}\n")), id(plain));
        assert!(id("7").unwrap_err().contains("not the id of a job"));
    }

    #[test]
    fn a_time_is_written_as_rfc_3339_has_it() {
        assert!(moment("2026-01-31T09:30:00+01:00").is_ok());
        for wrong in ["2026-01-31", "1h", ""] {
            let error = moment(wrong).unwrap_err();
            assert!(error.contains("2026-01-31T09:30:00Z"), "{error}");
        }
    }
}
