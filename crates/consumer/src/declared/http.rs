use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bootstrap::trace::{Span, TRACEPARENT, TRACESTATE};
use common::{JobKind, WireDuration, subjects};
use futures_util::TryFutureExt as _;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::environment::{Template, Variables};
use super::excerpt;
use super::file::Mistaken;
use super::result::Form;
use super::retry_after::retry_after;
use super::size::Size;
use crate::any_handler::{AnyHandler, Call, CallError, Payload, Returned};
use crate::handler::{Attempt, Failure};

/// A service may use it to do what a job asks for once only.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most of an attempt that is spent on connecting: less than it has, so that the error says
/// that it was this that took too long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of an answer that an error repeats.
const EXCERPT: usize = 1024;

/// How long a server that reports an error may take to explain it.
const EXPLANATION: Duration = Duration::from_secs(1);

/// The keys of a handler that calls a web service.
///
/// The URL is fixed here. A payload is the body and nothing else, so nobody who may submit jobs
/// chooses whom the consumer speaks to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Declaration {
    http: Template,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    headers: BTreeMap<String, Template>,
    timeout: Option<WireDuration>,
    #[serde(default)]
    redirects: Redirects,
    #[serde(default)]
    result: Form,
    #[serde(default)]
    max_output: Size,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    /// Without the payload, which has no meaning in it.
    Get,
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

/// How many redirects are followed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "i64")]
struct Redirects(usize);

impl TryFrom<i64> for Redirects {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let number = usize::try_from(number).ok().filter(|number| *number <= 10);
        number
            .map(Self)
            .ok_or_else(|| "invalid number of redirects: 0 to 10".to_owned())
    }
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    const fn of_http(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Post => reqwest::Method::POST,
            Self::Put => reqwest::Method::PUT,
            Self::Patch => reqwest::Method::PATCH,
            Self::Delete => reqwest::Method::DELETE,
        }
    }
}

/// Calls a web service for each job.
pub(super) struct Http {
    kind: JobKind,
    client: Client,
    method: Method,
    /// May hold a secret, and so is not shown.
    url: Url,
    /// Method and host, for messages.
    name: String,
    headers: HeaderMap,
    result: Form,
    max_output: Size,
    timeout: Option<Duration>,
}

impl Declaration {
    /// Fills variables in, and checks what comes of it.
    pub(super) fn handler(self, kind: JobKind, variables: Variables<'_>) -> Result<Http, Mistaken> {
        let url = self.http.fill(variables).and_then(|text| parse_url(&text));
        let url = url.map_err(|text| Mistaken::new("http", text))?;
        let headers =
            headers(&self.headers, variables).map_err(|text| Mistaken::new("headers", text))?;
        let client = client(&url, self.redirects).map_err(|error| {
            Mistaken::new("http", format!("cannot make a client for it: {error:#}"))
        })?;
        Ok(Http {
            kind,
            client,
            method: self.method,
            name: format!(
                "{} to {}",
                self.method.of_http(),
                url.host_str().unwrap_or_default()
            ),
            url,
            headers,
            result: self.result,
            max_output: self.max_output,
            timeout: self.timeout.map(WireDuration::get),
        })
    }
}

/// The text is not repeated in errors, because a variable may have brought a secret into it.
fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)
        .map_err(|error| format!("invalid URL: {error}; write \"https://host/path\""))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("invalid URL: it has to begin with https:// or http:// and a host".to_owned());
    }
    Ok(url)
}

fn headers(
    declared: &BTreeMap<String, Template>,
    variables: Variables<'_>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.1"),
    );
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("jobs-consumer/", env!("CARGO_PKG_VERSION"))),
    );
    let mut seen = BTreeSet::new();
    for (name, value) in declared {
        let name: HeaderName = name
            .parse()
            .map_err(|_| format!("{name:?} is not the name of a header"))?;
        let of_the_connection = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::TE,
            header::TRAILER,
            header::UPGRADE,
        ];
        if of_the_connection.contains(&name)
            || [IDEMPOTENCY_KEY.as_str(), TRACEPARENT, TRACESTATE].contains(&name.as_str())
            || name.as_str().starts_with("jobs-")
        {
            return Err(format!("{name} is set by the consumer itself"));
        }
        if !seen.insert(name.as_str().to_owned()) {
            return Err(format!("{name} is there twice"));
        }
        let value = value
            .fill(variables)
            .map_err(|error| format!("{name}: {error}"))?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            format!("{name}: the value holds a line end or another character that no header can")
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn client(url: &Url, redirects: Redirects) -> anyhow::Result<Client> {
    static CRYPTOGRAPHY: Once = Once::new();
    CRYPTOGRAPHY.call_once(|| {
        // Whoever uses this as a library may have chosen another before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut client = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(policy(redirects))
        .referer(false);
    if is_loopback(url) {
        // A proxy would look for it on its own machine.
        client = client.no_proxy();
    }
    if url.scheme() == "http" && redirects.0 == 0 {
        // Without TLS there is no need for certificates, which may be missing in a small image.
        client = client.tls_certs_only([]);
    }
    client.build().context("TLS cannot be set up")
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A redirect that is not followed stays the answer. None is followed to another server: it would
/// be shown the headers, and a server could choose whom the consumer speaks to.
fn policy(redirects: Redirects) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let stays = attempt
            .previous()
            .last()
            .is_some_and(|from| is_same_server(from, attempt.url()));
        if stays && attempt.previous().len() <= redirects.0 {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

fn is_same_server(from: &Url, to: &Url) -> bool {
    let upgraded = from.scheme() == "http"
        && to.scheme() == "https"
        && from.host() == to.host()
        && from.port().is_none()
        && to.port().is_none();
    from.origin() == to.origin() || upgraded
}

impl AnyHandler for Http {
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Call<'a> {
        let asking = self.ask(payload, attempt).map_err(CallError::Failed);
        Call::pending_if_wanted(wanted, asking)
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
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
            .header(subjects::ATTEMPT_HEADER, attempt.number);
        if let Some(trace) = span.context() {
            request = request.header(TRACEPARENT, trace.traceparent());
            if let Some(state) = trace.tracestate() {
                request = request.header(TRACESTATE, state);
            }
        }
        if self.method != Method::Get {
            let payload = payload.unwrap_or(RawValue::NULL);
            request = request.body(payload.get().to_owned());
        }
        let response = request.send().await.map_err(|error| self.broken(error))?;
        span.set(
            "http.response.status_code",
            i64::from(response.status().as_u16()),
        );
        if response.status().is_success() {
            let body = self.body(response).await?;
            self.result
                .read(&format!("the answer to {}", self.name), &body)
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
                    "{}: the answer is over the limit of {} (`max-output`)",
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
        if invites_repetition(status.as_u16()) {
            Failure::Transient {
                error,
                retry_after: wait,
            }
        } else {
            Failure::permanent(error)
        }
    }

    fn redirected(&self, status: StatusCode, to: Option<&Url>) -> anyhow::Error {
        // Only the host of either is shown: the rest may hold what is secret in our own URL.
        let host = to
            .and_then(Url::host_str)
            .map(|host| format!(" to {}", excerpt::head(host.as_bytes(), EXCERPT)));
        anyhow!(
            "{}: answered {status}, a redirect{} that is not followed: `redirects` allows them, to the \
             same server only",
            self.name,
            host.unwrap_or_default()
        )
    }

    fn broken(&self, error: reqwest::Error) -> Failure {
        Failure::transient(anyhow::Error::new(error.without_url()).context(self.name.clone()))
    }
}

/// Whether a status, of HTTP or of a service on NATS, says that the same may succeed later.
pub(super) fn invites_repetition(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// The beginning of the body of an error, as much of it as comes in time.
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
