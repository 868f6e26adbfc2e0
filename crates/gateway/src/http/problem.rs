use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use client::dead_letters::LeftAsItIs;
use client::kinds::WrongPause;
use client::schedules::{InvalidSchedule, Refused};
use client::{NotStored, RequestError, SubmitError};
use common::{DecodeError, JobId};
use serde::Serialize;
use utoipa::ToSchema;

/// When a client may try again after NATS or the consumers were away.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why a request was refused or has failed (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The HTTP status code.
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16, example = 422)]
    pub(crate) status: StatusCode,
    /// What the status means.
    #[schema(value_type = String, example = "Unprocessable Entity")]
    title: &'static str,
    /// What is wrong, in words.
    #[schema(value_type = String)]
    pub(crate) detail: Cow<'static, str>,
    /// The field, parameter or header that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "backoff.factor")]
    pub(crate) field: Option<String>,
    /// The job. If it may have been stored, submit it again under this id: it is not stored twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub(crate) id: Option<JobId>,
    /// The job that holds the key of the unique job, which was refused for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    holder: Option<JobId>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            field: None,
            id: None,
            holder: None,
            retry_after: None,
        }
    }

    /// A wrong parameter or header.
    pub(crate) fn bad(field: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail).on_field(field)
    }

    pub(crate) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// NATS, a service or the consumers are away; they may be back soon.
    pub(crate) fn away(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY_AFTER)
    }

    /// A limit is reached.
    pub(crate) fn too_many(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(Duration::from_secs(1))
    }

    pub(crate) fn on_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(crate) fn of_job(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    pub(crate) fn held_by(mut self, holder: JobId) -> Self {
        self.holder = Some(holder);
        self
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// When a client may try again; `None` if that is not known.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// JetStream has answered with an error, or not in time.
    pub(crate) fn of_nats(error: &anyhow::Error) -> Self {
        Self::away(format!("NATS has not answered as it should: {error:#}"))
    }
}

impl From<&InvalidSchedule> for Problem {
    fn from(error: &InvalidSchedule) -> Self {
        let text = error.to_string();
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, text);
        problem.field = field_in(&problem.detail);
        problem
    }
}

impl From<&Refused> for Problem {
    fn from(error: &Refused) -> Self {
        let text = error.to_string();
        match error {
            Refused::Invalid(error) => Self::from(error),
            Refused::Unknown(_) => Self::not_found(text),
            Refused::Changed { .. } => Self::new(StatusCode::PRECONDITION_FAILED, text),
            Refused::Unreadable(_) => Self::new(StatusCode::CONFLICT, text),
            Refused::Busy(_) => Self::too_many(text),
        }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return Self::from(refused);
        }
        match error.downcast_ref() {
            Some(LeftAsItIs::Busy(id) | LeftAsItIs::NoBytes(id)) => {
                Self::new(StatusCode::CONFLICT, error.to_string()).of_job(*id)
            }
            Some(LeftAsItIs::KeyHeld { id, holder }) => {
                let problem = Self::new(StatusCode::CONFLICT, error.to_string());
                problem.of_job(*id).held_by(*holder)
            }
            Some(LeftAsItIs::TooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).on_field("payload")
            }
            Some(LeftAsItIs::NotPortable(_)) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).on_field("payload")
            }
            None => match error.downcast_ref() {
                Some(WrongPause::Past(_)) => {
                    Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
                }
                Some(WrongPause::LongReason) => {
                    let text = format!("{error:#}");
                    Self::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("reason")
                }
                None => Self::of_nats(&error),
            },
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        match &error {
            DecodeError::NotJson(_) => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
            DecodeError::NotAJob { id, reason } => {
                let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
                problem.field = field_in(reason);
                problem.id = *id;
                problem
            }
        }
    }
}

/// The field that the decoder of jobs names: its message begins with it, between back-quotes.
fn field_in(reason: &str) -> Option<String> {
    let words = [
        "field `",
        "unknown field `",
        "missing field `",
        "duplicate field `",
    ];
    let rest = words.iter().find_map(|words| reason.strip_prefix(words))?;
    Some(rest.split('`').next()?.to_owned())
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        match error {
            RequestError::Scheduled => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("run_at")
            }
            RequestError::Unique => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("unique")
            }
            RequestError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, text),
            RequestError::TimedOut(_) => Self::new(StatusCode::GATEWAY_TIMEOUT, text),
            RequestError::NotAnOutcome(_) | RequestError::Forbidden => {
                Self::new(StatusCode::BAD_GATEWAY, text)
            }
            RequestError::NoConsumer | RequestError::Lost | RequestError::NotSent(_) => {
                Self::away(text)
            }
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let text = error.to_string();
        match error {
            SubmitError::Full { .. } => Self::too_many(text).retry_after(Duration::from_secs(10)),
            SubmitError::TooLarge { .. } | SubmitError::TooMany(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
            }
            SubmitError::NoStream(_)
            | SubmitError::MayBeStored { .. }
            | SubmitError::NotLookedUp(_)
            | SubmitError::NotConnected(_) => Self::away(text),
            SubmitError::Refused(_) | SubmitError::Forbidden(_) => {
                Self::new(StatusCode::BAD_GATEWAY, text)
            }
            SubmitError::Invalid { field, .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field(field)
            }
            SubmitError::SomeKnown => Self::new(StatusCode::CONFLICT, text),
            SubmitError::Conflict { holder, .. } => Self::new(StatusCode::CONFLICT, text)
                .on_field("unique.key")
                .held_by(holder),
            SubmitError::SameKey(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("unique.key")
            }
            SubmitError::Twice(id) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
                .on_field("id")
                .of_job(id),
        }
    }
}

impl From<NotStored> for Problem {
    fn from(error: NotStored) -> Self {
        let text = error.to_string();
        match error {
            NotStored::Full(_) => Self::too_many(text).retry_after(Duration::from_secs(10)),
            _ => Self::away(text),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of texts and numbers can always be written as JSON.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(header::CONTENT_TYPE, kind)], body).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer realm=\"jobs\"");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        // The gate makes a page of it if a browser asks.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use common::JobMessage;

    use super::*;

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let cases = [
            (r#"{"kind":"a","prioritty":1}"#, Some("prioritty")),
            (r#"{"payload":1}"#, Some("kind")),
            (r#"{"kind":"a..b"}"#, Some("kind")),
            (r#"{"kind":"a","backoff":{"factor":0}}"#, Some("backoff")),
            ("[]", None),
        ];
        for (text, field) in cases {
            let problem = Problem::from(JobMessage::decode(text.as_bytes()).unwrap_err());
            assert_eq!(
                problem.field.as_deref(),
                field,
                "{text}: {}",
                problem.detail
            );
            assert_eq!(problem.status, 422);
        }
    }
}
