mod declaration;
mod signature;

use std::time::Duration;

use anyhow::anyhow;
use bootstrap::trace::{Span, TRACEPARENT, TRACESTATE};
use common::{JobKind, Timestamp, subjects};
use futures_util::TryFutureExt as _;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::value::RawValue;
use time::OffsetDateTime;

pub(super) use self::declaration::Declaration;
use self::declaration::Method;
use self::signature::Secret;
use super::excerpt;
use super::result::Form;
use super::retry::{is_retryable, retry_after};
use super::size::Size;
use crate::any_handler::{AnyHandler, Call, CallError, Payload, Returned};
use crate::handler::{Attempt, Failure};
use crate::keep::Keep;

/// The header with the job's id, by which a service can tell that it did this job before.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header with the end of the attempt: the consumer takes no answer after it.
const ANSWER_BY: HeaderName = HeaderName::from_static("jobs-answer-by");

/// The most bytes of a response that an error shows.
const EXCERPT: usize = 1024;

/// How long the body of an error response is read.
const EXPLANATION: Duration = Duration::from_secs(1);

/// Calls a web service for each job.
pub(super) struct Http {
    kind: JobKind,
    client: Client,
    method: Method,
    /// Never shown: it may hold a secret.
    url: Url,
    /// Method and host, for error messages.
    name: String,
    headers: HeaderMap,
    /// Signs each request; without it, none is signed.
    secret: Option<Secret>,
    result: Form,
    max_output: Size,
    timeout: Option<Duration>,
    keep: Option<Keep>,
}

impl AnyHandler for Http {
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

impl Http {
    async fn ask(&self, payload: Payload<'_>, attempt: Attempt) -> Result<Returned, Failure> {
        let mut span = attempt.call(|| self.method.name().into());
        if span.is_recorded() {
            // The rest of the URL may hold a secret.
            span.set("http.request.method", self.method.name());
            span.set(
                "server.address",
                self.url.host_str().unwrap_or_default().to_owned(),
            );
            let port = self.url.port_or_known_default().unwrap_or_default();
            span.set("server.port", i64::from(port));
        }
        let answered = self.send(payload, attempt, &mut span).await;
        span.answered(answered.as_ref().err().map(Failure::code));
        answered
    }

    async fn send(
        &self,
        payload: Payload<'_>,
        attempt: Attempt,
        span: &mut Span,
    ) -> Result<Returned, Failure> {
        let mut request = self
            .client
            .request(self.method.of_http(), self.url.clone())
            .headers(self.headers.clone())
            .header(IDEMPOTENCY_KEY, attempt.id.to_string())
            .header("jobs-kind", self.kind.as_str())
            .header(subjects::ATTEMPT_HEADER, attempt.number)
            .header(
                ANSWER_BY,
                Timestamp::now().after(attempt.timeout).to_string(),
            );
        if let Some(trace) = span.context() {
            request = request.header(TRACEPARENT, trace.traceparent());
            if let Some(state) = trace.tracestate() {
                request = request.header(TRACESTATE, state);
            }
        }
        let body = match self.method {
            Method::Get => None,
            _ => Some(payload.unwrap_or(RawValue::NULL).get()),
        };
        if let Some(secret) = &self.secret {
            // Not the id of the job alone: a service that remembers the ids of signed requests, against
            // replays, takes the next attempt.
            let id = format!("{}_{}", attempt.id, attempt.number);
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let signature = secret.sign(&id, now, body.unwrap_or_default());
            request = request
                .header(signature::ID, id)
                .header(signature::TIMESTAMP, now)
                .header(signature::SIGNATURE, signature);
        }
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let response = request.send().await.map_err(|error| self.broken(error))?;
        span.set(
            "http.response.status_code",
            i64::from(response.status().as_u16()),
        );
        if response.status().is_success() {
            let body = self.body(response).await?;
            self.result
                .read(&format!("the response to {}", self.name), &body)
        } else {
            span.answered(Some(response.status().as_str()));
            Err(self.refusal(response).await)
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        if self.result == Form::None {
            return Ok(body);
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            if body.len() + chunk.len() > self.max_output.get() {
                return Err(Failure::permanent(anyhow!(
                    "{}: the response is over the limit of {} (`max-output`)",
                    self.name,
                    self.max_output
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let wait = header(header::RETRY_AFTER)
            .and_then(|value| retry_after(value, OffsetDateTime::now_utc()));
        if status.is_redirection() {
            let to = header(header::LOCATION).and_then(|location| self.url.join(location).ok());
            return Failure::permanent(self.redirected(status, to.as_ref()));
        }
        let explanation = explanation(response).await;
        let error = if explanation.is_empty() {
            anyhow!("{}: answered {status}", self.name)
        } else {
            anyhow!("{}: answered {status}: {explanation}", self.name)
        };
        if is_retryable(status.as_u16()) {
            Failure::Transient {
                error,
                retry_after: wait,
            }
        } else {
            Failure::permanent(error)
        }
    }

    fn redirected(&self, status: StatusCode, to: Option<&Url>) -> anyhow::Error {
        // Only the host is shown: the rest may repeat a secret of our own URL.
        let host = to
            .and_then(Url::host_str)
            .map(|host| format!(" to {}", excerpt::head(host.as_bytes(), EXCERPT)));
        anyhow!(
            "{}: answered {status}, a redirect{} that was not followed: `redirects` allows them to the \
             same server only",
            self.name,
            host.unwrap_or_default()
        )
    }

    fn broken(&self, error: reqwest::Error) -> Failure {
        Failure::transient(anyhow::Error::new(error.without_url()).context(self.name.clone()))
    }
}

/// The beginning of the body of an error response, as far as it comes in time.
async fn explanation(mut response: Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while body.len() <= EXCERPT
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
    };
    let _ = tokio::time::timeout(EXPLANATION, read).await;
    excerpt::head(&body, EXCERPT)
}

#[cfg(test)]
mod tests;
