//! Who is let in, as it is configured.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use bootstrap::{Context, Misconfigured};
use tracing::{info, warn};

use super::credentials::{COOKIE, is_token_byte, token, unknown_token};
use super::origin::names_this_machine;
use super::scopes::{Scope, Scopes};
use super::tokens::{Grant, Tokens};
use crate::config::Config;
use crate::http::Problem;

/// The page on which a person enters a token.
pub(crate) const SIGN_IN: &str = "/sign-in";

/// How long a browser keeps the cookie: a week.
const COOKIE_SECONDS: u32 = 7 * 24 * 3600;

/// Who is let in.
pub(crate) struct Access {
    /// The accepted tokens; `None` if no token is needed.
    tokens: Option<Tokens>,
    /// Names of this host that are accepted in the header `Host`, if no token is needed.
    host_names: Vec<String>,
    /// Whether connections from other machines are refused.
    loopback_only: bool,
    /// Whether clients use TLS, with the gateway or with a proxy before it.
    tls: bool,
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The name of the token; `anyone` where no token is needed.
    pub(super) name: Arc<str>,
    pub(super) scopes: Scopes,
}

impl Access {
    /// Reads the tokens, and refuses a configuration that opens the gateway to others by mistake.
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
                warn!(address = %listen, "tokens travel unencrypted: set --tls-cert, or --behind-tls if a proxy before the gateway does TLS");
            }
        } else if listen.ip().is_loopback() {
            info!(address = %listen, "no tokens: only this machine is served, and everybody on it may do everything");
        } else if options.allow_anyone
            && let Some(published) = options.published_on.filter(IpAddr::is_loopback)
        {
            info!(address = %listen, %published, "no tokens: only this machine is served, because the address is published on loopback only (--published-on), and everybody on it may do everything (--allow-anyone)");
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

    /// Whether connections from this address are accepted.
    pub(crate) fn serves(&self, peer: IpAddr) -> bool {
        !self.loopback_only || peer.to_canonical().is_loopback()
    }

    /// Whether requests need a token.
    pub(crate) fn needs_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether the gateway's address begins with `https` for its clients.
    pub(crate) fn uses_tls(&self) -> bool {
        self.tls
    }

    /// The cookie to set for a token; `None` if the token is not accepted.
    pub(crate) fn sign_in(&self, token: &str) -> Option<HeaderValue> {
        let tokens = self.tokens.as_ref()?;
        tokens.find(token)?;
        // The file may hold the hash of a token with bytes that a cookie cannot hold.
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

    /// Who sends a request, by its token.
    ///
    /// # Errors
    /// When a token is needed, and the request has none or an unknown one.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(tokens) = &self.tokens else {
            return Ok(Caller {
                name: "anyone".into(),
                scopes: Scopes::ALL,
            });
        };
        let (name, scopes) = tokens.find(token(headers)?).ok_or_else(unknown_token)?;
        Ok(Caller { name, scopes })
    }

    /// Permission to go on with something that needs a scope, until the token is withdrawn or loses
    /// the scope.
    ///
    /// # Errors
    /// When a token is needed, and the request has none, or one without the scope.
    pub(crate) fn grant(&self, headers: &HeaderMap, scope: Scope) -> Result<Grant, Problem> {
        match &self.tokens {
            Some(tokens) => tokens
                .grant(token(headers)?, scope)
                .ok_or_else(unknown_token),
            None => Ok(Grant::FOREVER),
        }
    }

    /// Where no token is needed, refuses requests under a name that is not one of this machine: see
    /// [`names_this_machine`].
    ///
    /// # Errors
    /// When the header `Host` names another machine.
    pub(crate) fn check_host(&self, host: Option<&str>) -> Result<(), Problem> {
        if self.needs_token() || names_this_machine(host, &self.host_names) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "the gateway does not serve this host name; if it is a name of this machine, add it with --host-names (GATEWAY_HOST_NAMES)",
        ))
    }
}
