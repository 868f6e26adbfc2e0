//! Who asks, and what they may do.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bootstrap::{Context, Misconfigured};
use tracing::{info, warn};

use crate::app::App;
use crate::config::Config;
use crate::problem::Problem;
use crate::scope::{Scope, Scopes};
use crate::tokens::{Grant, Tokens, is_token_byte};

/// Where a person gives a token.
pub(crate) const SIGN_IN: &str = "/sign-in";

/// The cookie that holds the token of a person.
const COOKIE: &str = "jobs_token";

/// How long a browser keeps it: a week.
const COOKIE_SECONDS: u32 = 7 * 24 * 3600;

/// Who is let in.
pub(crate) struct Access {
    tokens: Option<Tokens>,
    /// Names under which this host may be asked, if there are no tokens.
    host_names: Vec<String>,
    /// Whether whoever is not on this machine is refused.
    loopback_only: bool,
    /// Whether clients use TLS, with the gateway or with what stands before it.
    tls: bool,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The name of the token; `anyone` where no tokens are needed.
    pub(crate) name: Arc<str>,
    scopes: Scopes,
}

impl Access {
    /// Reads the tokens, and refuses to be open to others by mistake.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub(crate) fn new(context: &Context, config: &Config) -> anyhow::Result<Self> {
        let options = &config.access;
        let wrong = |text: String| anyhow::Error::new(Misconfigured(text));
        let tokens = match &options.tokens {
            Some(path) => Some(
                Tokens::watch(path.clone(), &context.health, context.shutdown.clone())
                    .map_err(|error| wrong(format!("--tokens (GATEWAY_TOKENS): {error:#}")))?,
            ),
            None => None,
        };
        let tls = options.tls_cert.is_some() || options.behind_tls;
        let listen = config.listen;
        if tokens.is_some() {
            if !listen.ip().is_loopback() && !tls {
                warn!(address = %listen, "tokens travel unencrypted: set --tls-cert, or --behind-tls if something before it does TLS");
            }
        } else if listen.ip().is_loopback() {
            info!(address = %listen, "no tokens: serving this machine only, and whoever is on it may do everything");
        } else if options.allow_anyone {
            warn!(address = %listen, "everybody who reaches this address may do everything (--allow-anyone)");
        } else {
            return Err(wrong(format!(
                "{listen} (--listen, GATEWAY_LISTEN) can be reached from other machines: say with --tokens (GATEWAY_TOKENS) \
                 who may do what, or with --allow-anyone (GATEWAY_ALLOW_ANYONE) that everybody may do everything"
            )));
        }
        Ok(Self {
            tokens,
            host_names: options.host_names.clone(),
            loopback_only: options.tokens.is_none() && !options.allow_anyone,
            tls,
        })
    }

    /// Whether connections from there are taken.
    pub(crate) fn serves(&self, peer: IpAddr) -> bool {
        !self.loopback_only || peer.to_canonical().is_loopback()
    }

    /// Whether a token is asked for.
    pub(crate) fn needs_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether the addresses that clients know are those of TLS.
    pub(crate) fn does_tls(&self) -> bool {
        self.tls
    }

    /// Whether this is a token that is accepted; the cookie to set if it is.
    pub(crate) fn sign_in(&self, token: &str) -> Option<HeaderValue> {
        let tokens = self.tokens.as_ref()?;
        tokens.find(token)?;
        // A hash says nothing of what its token is made of; a cookie may not hold all of it.
        if !token.bytes().all(is_token_byte) {
            return None;
        }
        HeaderValue::from_str(&self.cookie(token, COOKIE_SECONDS)).ok()
    }

    /// The cookie that removes the one of [`Access::sign_in`].
    pub(crate) fn sign_out(&self) -> HeaderValue {
        HeaderValue::from_str(&self.cookie("", 0)).unwrap_or(HeaderValue::from_static(""))
    }

    fn cookie(&self, token: &str, seconds: u32) -> String {
        let secure = if self.tls { "; Secure" } else { "" };
        format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Who asks, by a bearer token or the cookie.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(tokens) = &self.tokens else {
            return Ok(Caller {
                name: "anyone".into(),
                scopes: Scopes::ALL,
            });
        };
        let (name, scopes) = tokens.find(token(headers)?).ok_or_else(unknown)?;
        Ok(Caller { name, scopes })
    }

    /// For how long somebody may go on with what needs this scope.
    pub(crate) fn grant(&self, headers: &HeaderMap, scope: Scope) -> Result<Grant, Problem> {
        match &self.tokens {
            Some(tokens) => tokens.grant(token(headers)?, scope).ok_or_else(unknown),
            None => Ok(Grant::FOREVER),
        }
    }

    /// Without tokens the browser of whoever sits at this machine is all that it takes, so a page
    /// of another site must not reach the gateway under a name of its own that leads here (DNS
    /// rebinding). Such a page needs a name: addresses cannot be rebound.
    pub(crate) fn check_host(&self, host: Option<&str>) -> Result<(), Problem> {
        if self.needs_token() {
            return Ok(());
        }
        let name = host.map(host_name).unwrap_or_default();
        let ours = name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || name.to_ascii_lowercase().ends_with(".localhost")
            || self
                .host_names
                .iter()
                .any(|own| own.eq_ignore_ascii_case(name));
        if ours {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this host is not asked under that name; add it with --host-names (GATEWAY_HOST_NAMES) if it is its own",
        ))
    }
}

/// A host without its port, an IPv6 address without its brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

/// No page of another site may change anything here: browsers say where a request comes from, and
/// programs say nothing.
pub(crate) fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    host: Option<&str>,
) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let refused = |why| Err(Problem::new(StatusCode::FORBIDDEN, why));
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return refused("requests that change something are not taken from pages of other sites");
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none_or(|origin| Some(origin) != host) {
            return refused("the header Origin names another site than the header Host");
        }
    }
    Ok(())
}

/// The bearer token, or the one in the cookie.
fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    if let Some(token) = bearer(headers) {
        return Ok(token);
    }
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(unknown());
    }
    let missing = "a token is needed: send the header `Authorization: Bearer <token>`";
    cookie(headers).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, missing))
}

fn unknown() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "this token is not known")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let mut pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE && !value.is_empty()).then_some(value)
    })
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        app.access.caller(&parts.headers)
    }
}

impl Caller {
    async fn with(scope: Scope, parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Self::from_request_parts(parts, app).await?;
        if caller.scopes.contain(scope) {
            return Ok(caller);
        }
        let text = format!("the token {:?} lacks the scope `{scope}`", caller.name);
        Err(Problem::new(StatusCode::FORBIDDEN, text))
    }
}

/// Somebody who may see jobs, dead letters, the fleet and the queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader;

/// Somebody who may hand jobs over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender;

/// Somebody who may cancel, replay and discard.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    /// The name of the token, for the log.
    pub(crate) name: Arc<str>,
}

impl FromRequestParts<App> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Caller::with(Scope::Read, parts, app).await.map(|_| Self)
    }
}

impl FromRequestParts<App> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Caller::with(Scope::Submit, parts, app).await.map(|_| Self)
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Caller { name, .. } = Caller::with(Scope::Operate, parts, app).await?;
        Ok(Self { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn only_the_own_pages_may_change_something() {
        let allowed = |pairs: &[(&'static str, &'static str)]| {
            check_origin(&Method::POST, &headers(pairs), Some("jobs.example:8080")).is_ok()
        };
        assert!(allowed(&[]));
        assert!(allowed(&[("origin", "http://jobs.example:8080")]));
        assert!(allowed(&[
            ("origin", "https://jobs.example:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(allowed(&[("sec-fetch-site", "none")]));
        for origin in [
            "http://evil.example",
            "http://jobs.example",
            "null",
            "",
            "http://jobs.example:8080.evil",
        ] {
            assert!(!allowed(&[("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "", "Same-Origin"] {
            assert!(!allowed(&[("sec-fetch-site", site)]), "{site}");
        }
        let from_elsewhere = headers(&[("origin", "http://evil.example")]);
        assert!(check_origin(&Method::GET, &from_elsewhere, Some("a")).is_ok());
        assert!(check_origin(&Method::DELETE, &from_elsewhere, Some("a")).is_err());
    }

    #[test]
    fn without_tokens_only_the_own_names_are_answered() {
        let access = Access {
            tokens: None,
            host_names: vec!["jobs.internal".to_owned()],
            loopback_only: true,
            tls: false,
        };
        let hosts = [
            "localhost",
            "localhost:8080",
            "127.0.0.1:80",
            "[::1]:8080",
            "[::1]",
            "10.0.0.7",
            "jobs.internal:1",
            "LOCALHOST",
            "a.localhost",
        ];
        for host in hosts {
            assert!(access.check_host(Some(host)).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(access.check_host(Some(host)).is_err(), "{host}");
        }
        assert!(access.check_host(None).is_err());
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let all = headers(&[("cookie", "a=b; jobs_token=secret.1=; c"), ("x", "y")]);
        assert_eq!(cookie(&all), Some("secret.1="));
        assert_eq!(
            cookie(&headers(&[("cookie", "xjobs_token=1; jobs_token=")])),
            None
        );
        assert_eq!(
            bearer(&headers(&[("authorization", "bearer  abc")])),
            Some("abc")
        );
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
    }
}
