use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::outcome::cut;
use crate::{DecodeError, JobId, JobMessage, Timestamp, WireDuration};

/// When jobs are to be submitted again and again, and which: what somebody wants of a schedule.
///
/// An unknown field is refused by name, because a misspelt option must not change what happens. Exactly one
/// of `cron` and `every` is given.
///
/// ```
/// use common::{CatchUp, Overlap, Schedule};
///
/// let text = br#"{"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "overlap": "skip", "job": {"kind": "report"}}"#;
/// let schedule = Schedule::decode(text)?;
/// assert_eq!(schedule.job.message().kind.as_str(), "report");
/// assert_eq!((schedule.overlap, schedule.catch_up), (Overlap::Skip, CatchUp::Once));
/// let error = Schedule::decode(br#"{"cron": "* * * * *", "job": {}}"#).unwrap_err();
/// assert!(error.to_string().contains("missing field `kind`"));
/// # Ok::<(), common::InvalidSchedule>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Schedule {
    /// A cron expression of five fields (minute, hour, day of the month, month, day of the week) or six (a
    /// second first), or a name such as `@daily`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Instead of `cron`: the time between two ticks, in whole seconds. It counts from `start_at`, or from
    /// 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<WireDuration>,
    /// The name of the IANA time zone in which `cron` is read, such as `Europe/Berlin`.
    #[serde(default = "utc", skip_serializing_if = "is_utc")]
    pub time_zone: String,
    /// The job of each tick.
    pub job: JobTemplate,
    /// What happens at a tick while the job of an earlier one has not ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overlap: Overlap,
    /// What happens to ticks that are more than a minute late, because no consumer ran.
    #[serde(default, skip_serializing_if = "is_default")]
    pub catch_up: CatchUp,
    /// Each job runs up to so much later than its tick; how much later depends on name and tick only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<WireDuration>,
    /// There is no tick before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// There is no tick after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
    /// Whether there are no ticks for now.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
    /// What people should know, at most 1,000 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What happens at a tick while the job of the last tick has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// Another job is submitted.
    #[default]
    Allow,
    /// No job is submitted.
    Skip,
    /// The last job is cancelled, and another one is submitted.
    Replace,
}

/// What happens to missed ticks, which are more than a minute late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// They have no jobs.
    Skip,
    /// They have one job together, unless there is a tick in time already.
    #[default]
    Once,
    /// The last so many of them, 1 to 100, have a job each.
    All(
        #[serde(deserialize_with = "bounded")]
        #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
        u32,
    ),
}

/// The job of each tick: a job message without `id`, `created_at`, `deadline` and `run_at`, which belong to
/// one job. It is kept as it was written.
///
/// ```
/// use common::{JobTemplate, JobId, JobMessage, Timestamp};
///
/// let template: JobTemplate = serde_json::from_str(r#"{"kind": "report", "payload": 1.50}"#)?;
/// let id = JobId::generate();
/// let job = template.job(id, Timestamp::now(), None);
/// assert_eq!(JobMessage::decode(&job).expect("it is a job").id, Some(id));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct JobTemplate(Box<RawValue>);

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchedule(String);

impl InvalidSchedule {
    /// The reason, for people.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(cut(reason.into(), crate::OutcomeError::MAX_MESSAGE))
    }
}

impl Schedule {
    /// The longest note, in bytes.
    pub const MAX_NOTE: usize = 1000;

    /// The longest cron expression, in bytes.
    pub const MAX_CRON: usize = 256;

    /// The most missed ticks that have a job each.
    pub const MAX_CATCH_UP: u32 = 100;

    /// Reads a schedule. Whether its cron expression and its time zone can be used is not looked at.
    ///
    /// # Errors
    /// When the bytes are not a schedule; the error names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidSchedule> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let read = serde_path_to_error::deserialize::<_, Self>(&mut deserializer);
        let schedule = read.map_err(|located| {
            let of_a_field = located.inner().is_data() && located.path().iter().len() > 0;
            InvalidSchedule::new(if of_a_field {
                format!("field `{}`: {}", located.path(), located.inner())
            } else {
                located.into_inner().to_string()
            })
        })?;
        let end = deserializer.end();
        end.map_err(|error| InvalidSchedule::new(error.to_string()))?;
        Ok(schedule)
    }
}

impl JobTemplate {
    /// The largest template, in bytes.
    pub const MAX_BYTES: usize = 256 << 10;

    /// Reads a template.
    ///
    /// # Errors
    /// When it is not a job, has a field that belongs to one job, or is too large.
    pub fn new(job: Box<RawValue>) -> Result<Self, InvalidSchedule> {
        let size = job.get().len();
        if size > Self::MAX_BYTES {
            let most = Self::MAX_BYTES;
            return Err(InvalidSchedule::new(format!(
                "the job has {size} bytes; at most {most} are taken"
            )));
        }
        let message = JobMessage::decode(job.get().as_bytes());
        let message = message.map_err(|error| match error {
            DecodeError::NotAJob { reason, .. } => InvalidSchedule::new(reason),
            error @ DecodeError::NotJson(_) => InvalidSchedule::new(error.to_string()),
        })?;
        let of_one_job = [
            ("id", message.id.is_some()),
            ("created_at", message.created_at.is_some()),
            ("deadline", message.deadline.is_some()),
            ("run_at", message.run_at.is_some()),
        ];
        for (field, given) in of_one_job {
            if given {
                return Err(InvalidSchedule::new(format!(
                    "field `{field}`: it belongs to one job, and cannot be the same for each tick"
                )));
            }
        }
        if message.unique.is_some() {
            return Err(InvalidSchedule::new(
                "field `unique`: jobs of a schedule hold no key; `overlap` says whether two of them may run",
            ));
        }
        Ok(Self(job))
    }

    /// The job, without what belongs to one tick.
    ///
    /// # Panics
    /// Never: it was read when the template was made.
    #[must_use]
    pub fn message(&self) -> JobMessage<'_> {
        JobMessage::decode(self.0.get().as_bytes()).expect("it was read before")
    }

    /// The job of one tick.
    ///
    /// # Panics
    /// Never: what was read can be written.
    #[must_use]
    pub fn job(&self, id: JobId, created_at: Timestamp, run_at: Option<Timestamp>) -> Vec<u8> {
        let message = JobMessage {
            id: Some(id),
            created_at: Some(created_at),
            run_at,
            ..self.message()
        };
        serde_json::to_vec(&message).expect("what was read can be written")
    }

    /// The template as JSON.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for JobTemplate {
    /// Whether both say the same, in whatever order and layout.
    fn eq(&self, other: &Self) -> bool {
        let value = |template: &Self| serde_json::from_str::<serde_json::Value>(template.as_json());
        self.as_json() == other.as_json() || value(self).ok() == value(other).ok()
    }
}

impl<'de> Deserialize<'de> for JobTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Box::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let most = Schedule::MAX_CATCH_UP;
    let number = u32::deserialize(deserializer)?;
    if (1..=most).contains(&number) {
        Ok(number)
    } else {
        Err(D::Error::custom(format!(
            "invalid number of missed ticks {number}: 1 to {most}"
        )))
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

fn is_utc(zone: &str) -> bool {
    zone == "UTC"
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for JobTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobTemplate".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = JobMessage::json_schema(generator);
        if let Some(fields) = schema
            .get_mut("properties")
            .and_then(|it| it.as_object_mut())
        {
            for field in ["id", "created_at", "deadline", "run_at", "unique"] {
                fields.remove(field);
            }
        }
        schema.insert(
            "description".to_owned(),
            "The job of each tick: a job without `id`, `created_at`, `deadline`, `run_at` and `unique`."
                .into(),
        );
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_on_the_wire_reads_as_documented_and_keeps_the_payload_as_written() {
        let text = r#"{"cron":"0 30 2 * * MON-FRI","time_zone":"Europe/Berlin","job":{"kind":"mail.send", "payload":{"big":12345678901234567890123}},"overlap":"replace","catch_up":{"all":3},"jitter":"30s","start_at":"2026-01-31T09:30:00Z","end_at":"2027-01-31T09:30:00Z","paused":true,"note":"n"}"#;
        let schedule = Schedule::decode(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&schedule).unwrap(), text);
        let short = r#"{"every":"10m","job":{"kind":"a"}}"#;
        let schedule = Schedule::decode(short.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&schedule).unwrap(), short);
        assert_eq!(schedule.time_zone, "UTC");
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (text, expected) in [
            (r#"{"cron":"* * * * *"}"#, "missing field `job`"),
            (r#"{"corn":"* * * * *"}"#, "unknown field `corn`"),
            (
                r#"{"job":{"kind":"a","run_at":"2026-01-31T09:30:00Z"}}"#,
                "field `job`: field `run_at`: it belongs to one job",
            ),
            (
                r#"{"job":{"kind":"a","unique":{"key":"b"}}}"#,
                "field `job`: field `unique`: jobs of a schedule hold no key",
            ),
            (
                r#"{"job":{"kind":"a..b"}}"#,
                "field `job`: field `kind`: invalid kind",
            ),
            (
                r#"{"job":{"kind":"a"},"catch_up":{"all":101}}"#,
                "invalid number of missed ticks 101",
            ),
            (
                r#"{"job":{"kind":"a"},"every":"0s"}"#,
                "field `every`: invalid duration",
            ),
            (r#"{"job":{"kind":"a"}} x"#, "trailing characters"),
            ("[]", "expected an object"),
            ("{", "EOF while parsing an object"),
        ] {
            let error = Schedule::decode(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let large = format!(
            r#"{{"job":{{"kind":"a","payload":"{}"}}}}"#,
            "x".repeat(JobTemplate::MAX_BYTES)
        );
        let error = Schedule::decode(large.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("bytes; at most"), "{error}");
    }

    #[test]
    fn templates_are_equal_if_they_say_the_same() {
        let template =
            |text: &str| JobTemplate::new(RawValue::from_string(text.to_owned()).unwrap()).unwrap();
        let one = template(r#"{"kind":"a","payload":{"x":1,"y":2}}"#);
        assert_eq!(one, template(r#"{"payload": {"y":2, "x":1}, "kind": "a"}"#));
        assert_ne!(one, template(r#"{"kind":"a","payload":{"x":1,"y":3}}"#));
    }
}
