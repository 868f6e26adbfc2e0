//! A job with its options, before it is submitted.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use common::{
    Backoff, Job, JobId, JobKind, JobMessage, MaxAttempts, OnConflict, Priority, Timestamp, Unique,
    Until, WireDuration, check_portable,
};
use sha2::{Digest as _, Sha256};

use crate::job::{NewJob, names};
use crate::submitted::SubmitError;

/// A job with its options. It is submitted by [`Client::submit`](crate::Client::submit),
/// [`Client::submit_all`](crate::Client::submit_all), or by awaiting it if it came from the client.
///
/// An option that cannot be used, such as 0 attempts, is the error
/// [`SubmitError::Invalid`] when the job is submitted.
///
/// ```
/// use std::time::Duration;
///
/// use client::{Draft, Job};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct SendMail { to: String }
/// # impl Job for SendMail { const KIND: &'static str = "mail.send"; type Output = (); }
///
/// let mail = SendMail { to: "a@example.org".to_owned() };
/// let job = Draft::new(mail).delay(Duration::from_mins(5)).max_attempts(3).into_job()?;
/// assert_eq!(job.kind.as_str(), "mail.send");
/// # Ok::<(), client::SubmitError>(())
/// ```
#[derive(Clone)]
#[must_use = "a draft is submitted when it is awaited, or given to a client"]
pub struct Draft<J, T = ()> {
    job: J,
    id: Option<JobId>,
    options: JobMessage<'static>,
    headers: HeaderMap,
    /// The first option that cannot be used.
    mistake: Option<SubmitError>,
    /// How it is submitted when it is awaited.
    pub(crate) to: T,
}

/// Marks the ways to submit that store the job, so that it can run later.
///
/// ```
/// use client::{Draft, Job, Keeps};
///
/// /// Works for all ways to submit that store the job.
/// fn tomorrow<J: Job, T: Keeps>(draft: Draft<J, T>) -> Draft<J, T> {
///     draft.delay(std::time::Duration::from_hours(24))
/// }
/// # let _ = tomorrow::<Nothing, ()>;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Nothing;
/// # impl Job for Nothing { const KIND: &'static str = "nothing"; type Output = (); }
/// ```
pub trait Keeps {}

impl Keeps for () {}

impl<J: Job> Draft<J> {
    /// A job with the default options.
    pub fn new(job: J) -> Self {
        let (kind, mistake) = match J::KIND.parse::<JobKind>() {
            Ok(kind) => (kind, None),
            // The mistake ends the submission, so the kind is never used.
            Err(error) => (never(), Some(invalid("kind", &error))),
        };
        Self {
            job,
            id: None,
            options: JobMessage::new(kind),
            headers: HeaderMap::new(),
            mistake,
            to: (),
        }
    }
}

impl<J: Job> From<J> for Draft<J> {
    fn from(job: J) -> Self {
        Self::new(job)
    }
}

impl<J: Job, T> Draft<J, T> {
    /// Sets the id. A durable job whose id is known already is not stored again.
    pub fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the id to one that stands for a key, such as the number of an order: jobs with the same key
    /// are one job. It is the id that the gateway takes for the same `Idempotency-Key`; see [`id_of_key`].
    pub fn idempotency_key(self, key: impl AsRef<[u8]>) -> Self {
        self.id(id_of_key(key.as_ref()))
    }

    /// Sets the longest run of one attempt. The handler's own, or the consumer's, is used otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        match WireDuration::try_from(timeout) {
            Ok(timeout) => self.options.timeout = Some(timeout),
            Err(error) => self.set_mistake("timeout", &error),
        }
        self
    }

    /// The job is not started after this time, and ends as expired.
    pub fn deadline(mut self, deadline: Timestamp) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Sets how often the job is tried: 1 to 100, by default 5.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        match MaxAttempts::try_from(attempts) {
            Ok(attempts) => self.options.max_attempts = Some(attempts),
            Err(error) => self.set_mistake("max_attempts", &error),
        }
        self
    }

    /// Sets the waits between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = Some(backoff);
        self
    }

    /// Adds a header to the message of the job.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            (Ok(name), Ok(value)) => self.headers.insert(name, value),
            (Err(error), _) => self.set_mistake("header", &error),
            (_, Err(error)) => self.set_mistake("header", &error),
        }
        self
    }

    /// Makes the job part of a trace, by the value of the W3C header `traceparent`. With the feature
    /// `opentelemetry` this is needed only for another trace than the current one.
    pub fn traceparent(self, traceparent: &str) -> Self {
        self.header("traceparent", traceparent)
    }

    fn set_mistake(&mut self, field: &'static str, error: &dyn std::fmt::Display) {
        self.mistake.get_or_insert_with(|| invalid(field, error));
    }

    /// How it is submitted, and the same job to be submitted in another way.
    pub(crate) fn exchange<U>(self, to: U) -> (T, Draft<J, U>) {
        let draft = Draft {
            job: self.job,
            id: self.id,
            options: self.options,
            headers: self.headers,
            mistake: self.mistake,
            to,
        };
        (self.to, draft)
    }

    /// The job as it is submitted. It gets an id, if it has none, and a time of creation. With the feature
    /// `opentelemetry` it gets the current trace context too, if no `traceparent` was set.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] when an option cannot be used, or the payload cannot be written as
    /// JSON that every consumer can read.
    pub fn into_job(self) -> Result<NewJob, SubmitError> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        let payload = serde_json::value::to_raw_value(&self.job);
        let payload = payload.map_err(|error| invalid("payload", &error))?;
        check_portable(&payload).map_err(|error| invalid("payload", &error))?;
        let fresh = self.id.is_none();
        let id = self.id.unwrap_or_else(JobId::generate);
        let message = JobMessage {
            id: Some(id),
            payload: Some(&payload),
            created_at: Some(Timestamp::now()),
            ..self.options
        };
        #[cfg_attr(
            not(feature = "opentelemetry"),
            expect(unused_mut, reason = "only a trace context is added")
        )]
        let mut headers = self.headers;
        #[cfg(feature = "opentelemetry")]
        crate::trace::put_current(&mut headers);
        let bytes = serde_json::to_vec(&message).map_err(|error| invalid("job", &error))?;
        Ok(NewJob {
            id,
            fresh,
            priority: message.priority,
            run_at: message.run_at,
            kind: message.kind,
            unique: message.unique,
            payload: bytes.into(),
            headers,
        })
    }
}

impl<J: Job, T: Keeps> Draft<J, T> {
    /// The job does not run before this time, which is before the year 2262.
    pub fn run_at(mut self, time: Timestamp) -> Self {
        if time.unix_nanos() > i128::from(i64::MAX) {
            self.set_mistake("run_at", &"a NATS server can wait until 2262 only");
        }
        self.options.run_at = Some(time);
        self
    }

    /// The job does not run before so much time has passed.
    pub fn delay(self, delay: Duration) -> Self {
        self.run_at(Timestamp::now().after(delay))
    }

    /// The job is stored only if no other job of its kind holds the same key, which has 1 to 256 bytes.
    /// Otherwise the submission ends with [`SubmitError::Conflict`]. The job holds the key until it has
    /// ended.
    pub fn unique(self, key: &str) -> Self {
        self.unique_until(key, Until::default(), OnConflict::default())
    }

    /// The same, with the time until which the job holds the key, and what happens if another job holds
    /// it.
    pub fn unique_until(mut self, key: &str, until: Until, on_conflict: OnConflict) -> Self {
        match key.parse() {
            Ok(key) => {
                self.options.unique = Some(Unique {
                    key,
                    until,
                    on_conflict,
                });
            }
            Err(error) => self.set_mistake("unique", &error),
        }
        self
    }

    /// Sets the priority among the waiting jobs of its kind.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }
}

impl<J: Job, T> std::fmt::Debug for Draft<J, T> {
    /// Shows the size of the payload in bytes instead of the payload, and the headers without their values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let payload = serde_json::to_vec(&self.job);
        f.debug_struct("Draft")
            .field("id", &self.id)
            .field("options", &self.options)
            .field("payload_bytes", &payload.map_or(0, |payload| payload.len()))
            .field("headers", &names(&self.headers))
            .field("mistake", &self.mistake)
            .finish_non_exhaustive()
    }
}

fn invalid(field: &'static str, error: &dyn std::fmt::Display) -> SubmitError {
    SubmitError::Invalid {
        field,
        reason: error.to_string(),
    }
}

fn never() -> JobKind {
    // One letter is a kind.
    match "invalid".parse() {
        Ok(kind) => kind,
        Err(error) => unreachable!("{error}"),
    }
}

/// The id that stands for a key: the key itself if it is a UUID, otherwise a UUID of version 8 that is
/// made from a hash of the key. Every program that uses this function makes the same id of the same key.
#[must_use]
pub fn id_of_key(key: &[u8]) -> JobId {
    let text = std::str::from_utf8(key).ok();
    if let Some(id) = text.and_then(|text| text.parse().ok()) {
        return id;
    }
    let mut hash = Sha256::new();
    // The prefix keeps it apart from other hashes of the same text.
    hash.update(b"jobs gateway: Idempotency-Key\0");
    hash.update(key);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    JobId::from_custom_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Serialize, Deserialize)]
    struct Mail {
        to: String,
    }

    impl Job for Mail {
        const KIND: &'static str = "mail.send";
        type Output = ();
    }

    #[derive(Serialize, Deserialize)]
    struct Wrong;

    impl Job for Wrong {
        const KIND: &'static str = "a..b";
        type Output = ();
    }

    fn mail() -> Draft<Mail> {
        let to = "a@example.org".to_owned();
        Draft::new(Mail { to })
    }

    #[test]
    fn the_message_has_all_options_and_is_read_back_as_it_was_written() {
        let id = JobId::generate();
        let job = mail()
            .id(id)
            .timeout(Duration::from_secs(30))
            .deadline("2030-01-01T08:00:00Z".parse().unwrap())
            .max_attempts(3)
            .priority(Priority::High)
            .run_at("2030-01-01T07:00:00Z".parse().unwrap())
            .header("X-Tenant", "7")
            .into_job()
            .unwrap();
        assert_eq!((job.id, job.fresh), (id, false));
        assert_eq!(job.priority, Priority::High);
        assert_eq!(job.headers.get("X-Tenant").unwrap().as_str(), "7");
        let message = JobMessage::decode(&job.payload).unwrap();
        assert_eq!(message.kind.as_str(), "mail.send");
        assert_eq!(message.payload.unwrap().get(), r#"{"to":"a@example.org"}"#);
        assert_eq!(message.max_attempts.unwrap().get(), 3);
        assert_eq!(message.run_at, job.run_at);
        assert!(message.created_at.is_some() && message.deadline.is_some());
        let fresh = mail().into_job().unwrap();
        assert!(fresh.fresh);
        assert_ne!(fresh.id, mail().into_job().unwrap().id);
    }

    #[test]
    fn an_option_that_cannot_be_used_is_named_when_the_job_is_submitted() {
        for (draft, field) in [
            (mail().max_attempts(0), "max_attempts"),
            (mail().timeout(Duration::ZERO), "timeout"),
            (mail().unique(""), "unique"),
            (mail().header("a b", "c"), "header"),
            (mail().header("a", "b\r\nc"), "header"),
            (
                mail().run_at("2262-04-11T23:47:17Z".parse().unwrap()),
                "run_at",
            ),
        ] {
            let error = draft.into_job().unwrap_err();
            let SubmitError::Invalid { field: named, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(named, field);
        }
        let error = Draft::new(Wrong).into_job().unwrap_err();
        assert!(error.to_string().contains("kind"), "{error}");
    }

    #[test]
    fn neither_payload_nor_values_of_headers_are_shown_to_people() {
        let draft = mail().header("Authorization", "secret");
        let shown = format!("{draft:?} {:?}", draft.clone().into_job().unwrap());
        assert!(
            !shown.contains("example.org") && !shown.contains("secret"),
            "{shown}"
        );
        assert!(
            shown.contains("mail.send") && shown.contains("Authorization"),
            "{shown}"
        );
        let payload = r#"{"to":"a@example.org"}"#.len();
        assert!(
            shown.contains(&format!("payload_bytes: {payload}")),
            "{shown}"
        );
        assert!(shown.contains(" bytes: "), "{shown}");
    }

    #[test]
    fn a_key_always_stands_for_the_same_id() {
        let id = mail().idempotency_key("order-7").into_job().unwrap().id;
        assert_eq!(id, id_of_key(b"order-7"));
        assert_eq!(id.to_string().as_bytes()[14], b'8', "{id}");
        assert_ne!(id, id_of_key(b"order-8"));
        let text = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(id_of_key(text.as_bytes()).to_string(), text);
    }
}
