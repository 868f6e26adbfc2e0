use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE};
use async_nats::{HeaderMap, Message, Request, RequestErrorKind};
use bootstrap::NatsClient;
use bootstrap::trace::Span;
use bytes::Bytes;
use common::{JobKind, WireDuration, subjects};
use futures_util::TryFutureExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::excerpt;
use super::result::Form;
use super::retry::is_retryable;
use crate::any_handler::{AnyHandler, Call, CallError, Payload, Returned};
use crate::handler::{Attempt, Failure};
use crate::keep::Keep;

/// The header with the id of the job, which all attempts share.
const ID_HEADER: &str = "Jobs-Id";

/// The header with the kind of the job, for services that run several kinds.
const KIND_HEADER: &str = "Jobs-Kind";

/// The most bytes of a reply that an error shows.
const EXCERPT: usize = 1024;

/// The keys of a handler that sends requests to a NATS service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Declaration {
    nats: ServiceSubject,
    timeout: Option<WireDuration>,
    keep: Option<Keep>,
    #[serde(default)]
    result: Form,
}

/// The subject of a NATS service.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct ServiceSubject(String);

impl TryFrom<String> for ServiceSubject {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_token = |token: &str| {
            !token.is_empty()
                && token
                    .chars()
                    .all(|char| char.is_ascii_graphic() && !"*>".contains(char))
        };
        if text.len() > 256 || !text.split('.').all(is_token) {
            let shown: String = text.chars().take(64).collect();
            return Err(format!(
                "invalid subject {shown:?}: tokens without spaces and wildcards, joined by single dots, \
                 such as \"handlers.resize\""
            ));
        }
        // A job could loop forever, or use the server's API with the consumer's rights.
        if text == "jobs"
            || ["jobs.", "$", "_INBOX"]
                .iter()
                .any(|own| text.starts_with(own))
        {
            return Err(format!(
                "invalid subject {text:?}: subjects of the job system and of the server are not allowed; \
                 use one such as \"handlers.resize\""
            ));
        }
        Ok(Self(text))
    }
}

/// The client for requests. It is set once NATS is reached, after the file was checked.
pub(crate) type LateClient = Arc<OnceLock<NatsClient>>;

/// Sends each job as a request to a NATS service.
pub(super) struct Nats {
    kind: JobKind,
    client: LateClient,
    subject: ServiceSubject,
    timeout: Option<Duration>,
    keep: Option<Keep>,
    result: Form,
}

impl Declaration {
    pub(super) fn handler(self, kind: JobKind, client: LateClient) -> Nats {
        Nats {
            kind,
            client,
            subject: self.nats,
            timeout: self.timeout.map(WireDuration::get),
            keep: self.keep,
            result: self.result,
        }
    }
}

impl AnyHandler for Nats {
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Call<'a> {
        let asking = self.ask(payload, attempt).map_err(CallError::Failed);
        Call::pending_if_wanted(wanted, asking)
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn keep(&self) -> Option<Keep> {
        self.keep
    }
}

impl Nats {
    async fn ask(&self, payload: Payload<'_>, attempt: Attempt) -> Result<Returned, Failure> {
        let mut span = attempt.call(|| format!("request {}", self.subject.0).into());
        if span.is_recorded() {
            span.set("messaging.system", "nats");
            span.set("messaging.operation.name", "request");
            span.set("messaging.operation.type", "send");
            span.set("messaging.destination.name", self.subject.0.clone());
        }
        let answered = self.request(payload, attempt, &span).await;
        span.answered(answered.as_ref().err().map(Failure::code));
        answered
    }

    async fn request(
        &self,
        payload: Payload<'_>,
        attempt: Attempt,
        span: &Span,
    ) -> Result<Returned, Failure> {
        let payload = payload.unwrap_or(RawValue::NULL);
        let mut headers = HeaderMap::new();
        headers.insert(ID_HEADER, attempt.id.to_string());
        headers.insert(KIND_HEADER, self.kind.as_str());
        headers.insert(subjects::ATTEMPT_HEADER, attempt.number.to_string());
        span.put_into(&mut headers);
        let request = Request::new()
            .payload(Bytes::from(payload.get().to_owned()))
            .headers(headers)
            // The time-out of the attempt bounds the request.
            .timeout(None);
        let subject = &self.subject.0;
        let client = self.client.get();
        let client =
            client.ok_or_else(|| Failure::transient(anyhow!("NATS was not reached yet")))?;
        let answer = client
            .send_request(subject.clone(), request)
            .await
            .map_err(|error| {
                let (kind, error) = (error.kind(), anyhow::Error::new(error));
                match kind {
                    RequestErrorKind::NoResponders => {
                        Failure::transient(anyhow!("no service answers on {subject}"))
                    }
                    RequestErrorKind::MaxPayloadExceeded => Failure::permanent(error.context(
                        format!("the payload is too large for a request to {subject}"),
                    )),
                    _ => Failure::transient(
                        error.context(format!("cannot send a request to the service on {subject}")),
                    ),
                }
            })?;
        if let Some(failure) = self.refusal(&answer) {
            return Err(failure);
        }
        self.result
            .read(&format!("the reply from {subject}"), &answer.payload)
    }

    /// The failure that a reply reports in the headers of the micro service protocol; `None` if it
    /// reports none.
    fn refusal(&self, answer: &Message) -> Option<Failure> {
        let header = |name| {
            answer
                .headers
                .as_ref()
                .and_then(|headers| headers.get(name))
        };
        let (description, code) = (header(NATS_SERVICE_ERROR), header(NATS_SERVICE_ERROR_CODE));
        let shown =
            |value: &async_nats::HeaderValue| excerpt::head(value.as_str().as_bytes(), EXCERPT);
        let said = [code, description]
            .into_iter()
            .flatten()
            .map(shown)
            .collect::<Vec<_>>();
        if said.is_empty() {
            return None;
        }
        let mut text = format!(
            "the service on {} failed: {}",
            self.subject.0,
            said.join(" ")
        );
        if !answer.payload.is_empty() {
            text = format!("{text}: {}", excerpt::head(&answer.payload, EXCERPT));
        }
        let error = anyhow!(text);
        let code = code.and_then(|code| code.as_str().trim().parse().ok());
        // Without a code another attempt may succeed.
        let permanent =
            code.is_some_and(|code: u16| (400..500).contains(&code) && !is_retryable(code));
        Some(if permanent {
            Failure::permanent(error)
        } else {
            Failure::transient(error)
        })
    }
}

#[cfg(test)]
mod tests;
