//! The keys of a handler that calls a web service, and the checks when the consumer starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::trace::{TRACEPARENT, TRACESTATE};
use common::{JobKind, WireDuration};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;
use reqwest::{Client, Url};
use serde::Deserialize;

use super::signature::{self, Secret};
use super::{Http, IDEMPOTENCY_KEY};
use crate::declared::environment::{Template, Variables};
use crate::declared::mistake::KeyMistake;
use crate::declared::result::Form;
use crate::declared::size::Size;
use crate::keep::Keep;

/// Time-out of connecting. It is shorter than that of most attempts, so that the error names the
/// cause.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys of a handler that calls a web service.
///
/// The URL is fixed here. A payload becomes the body and nothing else, so jobs cannot choose the
/// server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::declared) struct Declaration {
    http: Template,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    headers: BTreeMap<String, Template>,
    /// The key that requests are signed with; it has to come from the environment.
    secret: Option<Template>,
    timeout: Option<WireDuration>,
    keep: Option<Keep>,
    #[serde(default)]
    redirects: Redirects,
    #[serde(default)]
    result: Form,
    #[serde(default)]
    max_output: Size,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Method {
    /// Sent without the payload: a GET has no body.
    Get,
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

/// The most redirects that are followed, 0 to 10.
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
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    pub(super) const fn of_http(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Post => reqwest::Method::POST,
            Self::Put => reqwest::Method::PUT,
            Self::Patch => reqwest::Method::PATCH,
            Self::Delete => reqwest::Method::DELETE,
        }
    }
}

impl Declaration {
    /// Fills in the variables and checks the result.
    pub(in crate::declared) fn handler(
        self,
        kind: JobKind,
        variables: Variables<'_>,
    ) -> Result<Http, KeyMistake> {
        let url = self.http.fill(variables).and_then(|text| parse_url(&text));
        let url = url.map_err(|text| KeyMistake::new("http", text))?;
        let headers =
            headers(&self.headers, variables).map_err(|text| KeyMistake::new("headers", text))?;
        let secret = self
            .secret
            .map(|secret| Secret::from_template(&secret, variables));
        let secret = secret
            .transpose()
            .map_err(|text| KeyMistake::new("secret", text))?;
        let client = client(&url, self.redirects).map_err(|error| {
            KeyMistake::new("http", format!("cannot create an HTTP client: {error:#}"))
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
            secret,
            result: self.result,
            max_output: self.max_output,
            timeout: self.timeout.map(WireDuration::get),
            keep: self.keep,
        })
    }
}

/// Errors do not show the text: a variable may have put a secret into it.
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
            || [signature::ID, signature::TIMESTAMP, signature::SIGNATURE].contains(&name)
            || name.as_str().starts_with("jobs-")
        {
            return Err(format!("{name} is set by the consumer itself"));
        }
        if !seen.insert(name.as_str().to_owned()) {
            return Err(format!("{name} is declared twice"));
        }
        let value = value
            .fill(variables)
            .map_err(|error| format!("{name}: {error}"))?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            format!("{name}: the value holds a line end or another character that is not allowed in a header")
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn client(url: &Url, redirects: Redirects) -> anyhow::Result<Client> {
    static CRYPTOGRAPHY: Once = Once::new();
    CRYPTOGRAPHY.call_once(|| {
        // An error means that this process has chosen a provider before, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut client = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(policy(redirects))
        .referer(false);
    if is_loopback(url) {
        // A proxy would connect to its own machine instead of this one.
        client = client.no_proxy();
    }
    if url.scheme() == "http" && redirects.0 == 0 {
        // Plain HTTP needs no root certificates, which a small image may lack.
        client = client.tls_certs_only([]);
    }
    client.build().context("TLS cannot be set up")
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Follows redirects to the same server only: another one would get the headers, which may hold
/// secrets. A redirect that is not followed is the response.
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

pub(super) fn is_same_server(from: &Url, to: &Url) -> bool {
    let upgraded = from.scheme() == "http"
        && to.scheme() == "https"
        && from.host() == to.host()
        && from.port().is_none()
        && to.port().is_none();
    from.origin() == to.origin() || upgraded
}
