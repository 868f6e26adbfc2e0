//! Where NATS is, and who this program is there.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::filter::TlsOptions;

/// How many messages the client library buffers for one subscription before it drops some. It is more
/// than a server sends to a client that does not read (`max_pending`, 64 MiB by default), so nothing is
/// ever dropped. As a bound it costs no memory.
const SUBSCRIPTION_CAPACITY: usize = 4 * 1024 * 1024;

/// The server of an application that names none.
const LOCAL: &str = "nats://127.0.0.1:4222";

/// Where NATS is, and who this program is there.
///
/// ```
/// use connection::Options;
///
/// let options = Options::new()
///     .servers("nats://127.0.0.1:4222")?
///     .user("publisher", "secret");
/// # let _ = options;
/// # Ok::<(), connection::OptionsError>(())
/// ```
#[derive(Clone, Default)]
pub struct Options {
    url: Vec<ServerAddr>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    inbox_prefix: Option<InboxPrefix>,
    name: Option<String>,
}

/// An option or its environment variable has a value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct OptionsError {
    name: &'static str,
    reason: String,
}

/// Who makes a connection.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name of this instance. With the purpose it is the name of the connection on the server.
    pub instance: String,
    /// What inbox subjects begin with, unless the options say otherwise.
    pub inbox_prefix: String,
}

/// What inbox subjects begin with: tokens of `A-Z a-z 0-9 _ -` joined by single dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxPrefix(String);

/// A text that is not an [`InboxPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tokens of A-Z a-z 0-9 _ - joined by single dots")]
pub struct InvalidInboxPrefix;

impl Options {
    /// A server on this machine, without credentials.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the environment variables `NATS_URL`, `NATS_USER`, `NATS_PASSWORD`, `NATS_TOKEN`,
    /// `NATS_CREDS`, `NATS_NKEY`, `NATS_CA`, `NATS_CERT`, `NATS_KEY` and `NATS_INBOX_PREFIX`, which mean
    /// the same as for the services. An empty variable counts as unset.
    ///
    /// # Errors
    /// When a variable has a value that cannot be used; the error names the variable, and never shows a
    /// secret.
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads the same variables by a function, which returns the value of a variable or `None`.
    ///
    /// # Errors
    /// See [`Options::from_env`].
    pub fn from_variables(
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, OptionsError> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let path = |name| variable(name).map(PathBuf::from);
        let mut options = Self::new();
        if let Some(urls) = variable("NATS_URL") {
            options = options.servers(&urls)?;
        }
        if let Some(prefix) = variable("NATS_INBOX_PREFIX") {
            let prefix = prefix
                .parse()
                .map_err(|wrong: InvalidInboxPrefix| OptionsError {
                    name: "NATS_INBOX_PREFIX",
                    reason: wrong.to_string(),
                })?;
            options = options.inbox_prefix(prefix);
        }
        let error = |name, reason: &str| OptionsError {
            name,
            reason: reason.to_owned(),
        };
        let (user, token) = (variable("NATS_USER"), variable("NATS_TOKEN"));
        if user.is_some() && token.is_some() {
            return Err(error(
                "NATS_TOKEN",
                "it excludes NATS_USER: set one of both",
            ));
        }
        options.password = variable("NATS_PASSWORD");
        if options.password.is_some() && user.is_none() {
            return Err(error("NATS_PASSWORD", "it needs NATS_USER"));
        }
        (options.user, options.token) = (user, token);
        (options.creds, options.nkey) = (path("NATS_CREDS"), path("NATS_NKEY"));
        options.ca = path("NATS_CA");
        options.identity = match (path("NATS_CERT"), path("NATS_KEY")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(error("NATS_CERT", "it needs NATS_KEY")),
            (None, Some(_)) => return Err(error("NATS_KEY", "it needs NATS_CERT")),
        };
        Ok(options)
    }

    /// Sets the servers: URLs separated by commas. The scheme `tls://` asks for TLS. A user and a password
    /// may stand before the host, such as `nats://user:p%40ss@host`; other characters than letters and
    /// digits are percent-encoded.
    ///
    /// # Errors
    /// When one of them is no address.
    pub fn servers(mut self, urls: &str) -> Result<Self, OptionsError> {
        let addresses = urls.split(',').map(|url| url.trim().parse());
        let addresses: Result<Vec<ServerAddr>, _> = addresses.collect();
        // The library's error may show the URL, and with it a password.
        self.url = addresses.map_err(|_| OptionsError {
            name: "NATS_URL",
            reason: "not the URL of a server, such as nats://127.0.0.1:4222".to_owned(),
        })?;
        Ok(self)
    }

    /// Sets the servers as they were read.
    #[must_use]
    pub fn addresses(mut self, addresses: Vec<ServerAddr>) -> Self {
        self.url = addresses;
        self
    }

    /// Logs in with a user name and a password.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(name.into());
        self.password = Some(password.into());
        self
    }

    /// Logs in with a token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Logs in with the file of a user's JWT and seed.
    #[must_use]
    pub fn credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.creds = Some(path.into());
        self
    }

    /// Logs in with the file of a user's NKEY seed.
    #[must_use]
    pub fn nkey_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.nkey = Some(path.into());
        self
    }

    /// Trusts the certificate authorities in a file in PEM, and refuses connections without TLS.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Shows this certificate to the server, with the file of its key, both in PEM. Refuses connections
    /// without TLS.
    #[must_use]
    pub fn certificate_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets what inbox subjects begin with, if it is not `_INBOX_` and the name of the user. A user whose
    /// rights are restricted may subscribe to no other inboxes.
    #[must_use]
    pub fn inbox_prefix(mut self, prefix: InboxPrefix) -> Self {
        self.inbox_prefix = Some(prefix);
        self
    }

    /// Sets the name of the connection on the server; by default that of the program.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The name of the connection on the server.
    #[must_use]
    pub fn shown_name(&self) -> String {
        let of_program = || {
            let program = std::env::current_exe().ok()?;
            Some(program.file_stem()?.to_string_lossy().into_owned())
        };
        let name = self.name.clone().or_else(of_program);
        name.unwrap_or_else(|| "application".to_owned())
    }

    /// What inbox subjects begin with, if nothing else was set: `_INBOX_` and the name of the user.
    #[must_use]
    pub fn default_inbox_prefix(&self) -> String {
        let in_url = || decoded(self.url.iter().find_map(ServerAddr::username)?).ok();
        let user = self.user.clone().or_else(in_url);
        let prefix = user.and_then(|user| format!("_INBOX_{user}").parse().ok());
        prefix.map_or_else(|| "_INBOX".to_owned(), |InboxPrefix(prefix)| prefix)
    }

    fn urls(&self) -> Vec<ServerAddr> {
        if !self.url.is_empty() {
            return self.url.clone();
        }
        LOCAL.parse().into_iter().collect()
    }

    /// The servers without credentials, for logs.
    pub(crate) fn shown(&self) -> String {
        let shown = self
            .urls()
            .into_iter()
            .map(|url| format!("{}:{}", url.host(), url.port()));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Whether connections without TLS are refused, even if the server allows them.
    fn requires_tls(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }

    /// The addresses of the servers, with the scheme `tls` if TLS is required.
    ///
    /// # Errors
    /// When an address cannot have that scheme.
    pub(crate) fn pool(&self) -> anyhow::Result<Vec<ServerAddr>> {
        if !self.requires_tls() {
            return Ok(self.urls());
        }
        // The library's own option would also apply to the address of the filter.
        let with_tls = self.urls().into_iter().map(|url| {
            let mut url = url.into_inner();
            if url.scheme() == "nats" {
                url.set_scheme("tls").map_err(|()| {
                    anyhow::anyhow!(
                        "NATS_URL {} cannot be used with TLS",
                        url.host_str().unwrap_or_default()
                    )
                })?;
            }
            Ok(ServerAddr::from_url(url)?)
        });
        with_tls.collect()
    }

    /// The same TLS options for the filter.
    pub(crate) fn tls(&self) -> TlsOptions {
        TlsOptions {
            required: self.requires_tls(),
            ca: self.ca.clone(),
            identity: self.identity.clone(),
        }
    }

    pub(crate) async fn connect_options(
        &self,
        default_inbox: &str,
    ) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .custom_inbox_prefix(
                self.inbox_prefix
                    .as_ref()
                    .map_or(default_inbox, |InboxPrefix(prefix)| prefix),
            )
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .connection_timeout(Duration::from_secs(5));
        if self.requires_tls() {
            // The library would connect to discovered servers without TLS if they allow it.
            options = options.ignore_discovered_servers();
        }
        // The library ignores the user in a URL.
        let in_url = self
            .url
            .iter()
            .find_map(|url| Some((url.username()?, url.password()?)));
        if let Some(user) = &self.user {
            let password = self.password.clone().unwrap_or_default();
            options = options.user_and_password(user.clone(), password);
        } else if let Some((user, password)) = in_url {
            options = options.user_and_password(decoded(user)?, decoded(password)?);
        }
        if let Some(token) = &self.token {
            options = options.token(token.clone());
        }
        if let Some(path) = &self.creds {
            options = options
                .credentials_file(path)
                .await
                .with_context(|| format!("cannot use NATS_CREDS {}", path.display()))?;
        }
        if let Some(path) = &self.nkey {
            options = options.nkey(read(path, "NATS_NKEY")?.trim().to_owned());
        }
        if let Some(path) = &self.ca {
            read(path, "NATS_CA")?;
            options = options.add_root_certificates(path.clone());
        }
        if let Some((cert, key)) = &self.identity {
            read(cert, "NATS_CERT")?;
            read(key, "NATS_KEY")?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options)
    }
}

/// A user or a password as it stands in a URL, where `%40` is `@`.
fn decoded(text: &str) -> anyhow::Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    // The error shows no secret.
    let text = text.map_err(|_| anyhow::anyhow!("NATS_URL: user and password are not UTF-8"))?;
    Ok(text.into_owned())
}

/// Reads a file before the library does: the library's errors do not name it.
fn read(path: &Path, variable: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {variable} {}", path.display()))
}

impl FromStr for InboxPrefix {
    type Err = InvalidInboxPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidInboxPrefix> {
        let token = |token: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            !token.is_empty() && token.bytes().all(good)
        };
        if text.split('.').all(token) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInboxPrefix)
        }
    }
}

impl std::fmt::Debug for Options {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("servers", &self.shown())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Options, OptionsError> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Options::from_variables(lookup)
    }

    #[test]
    fn the_variables_mean_what_they_mean_for_services() {
        let options = read(&[
            ("NATS_URL", "nats://a:1,tls://b:2"),
            ("NATS_USER", "publisher"),
            ("NATS_PASSWORD", "secret"),
            ("NATS_TOKEN", ""),
        ])
        .unwrap();
        assert_eq!(options.shown(), "a:1, b:2");
        assert_eq!(options.default_inbox_prefix(), "_INBOX_publisher");
        assert!(!format!("{options:?}").contains("secret"));
        let options = read(&[("NATS_URL", "nats://billing:secret@a:1")]).unwrap();
        assert_eq!(options.default_inbox_prefix(), "_INBOX_billing");
        let options = read(&[]).unwrap();
        assert_eq!(options.shown(), "127.0.0.1:4222");
        assert_eq!(options.default_inbox_prefix(), "_INBOX");
    }

    #[tokio::test]
    async fn user_and_password_in_a_url_are_decoded() {
        let options = read(&[("NATS_URL", "nats://b%C3%B6b%2d1:p%40s%3As@a:1")]).unwrap();
        let user = options.url[0].username().unwrap();
        assert_eq!(decoded(user).unwrap(), "böb-1");
        let password = options.url[0].password().unwrap();
        assert_eq!(decoded(password).unwrap(), "p@s:s");
        let plain = read(&[("NATS_URL", "nats://b%6fb:p@a:1")]).unwrap();
        assert_eq!(plain.default_inbox_prefix(), "_INBOX_bob");
        let wrong = read(&[("NATS_URL", "nats://bob:%ff@a:1")]).unwrap();
        let error = wrong.connect_options("_INBOX").await.err().unwrap();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
        assert!(!error.to_string().contains("ff"), "{error}");
    }

    #[test]
    fn a_wrong_variable_is_named_and_no_secret_is_shown() {
        for (variables, expected) in [
            (
                &[("NATS_URL", "nats://user:secret@ host")][..],
                "NATS_URL: not the URL of a server",
            ),
            (
                &[("NATS_PASSWORD", "secret")],
                "NATS_PASSWORD: it needs NATS_USER",
            ),
            (
                &[("NATS_USER", "a"), ("NATS_TOKEN", "secret")],
                "NATS_TOKEN: it excludes NATS_USER",
            ),
            (&[("NATS_CERT", "cert.pem")], "NATS_CERT: it needs NATS_KEY"),
            (&[("NATS_KEY", "key.pem")], "NATS_KEY: it needs NATS_CERT"),
            (
                &[("NATS_INBOX_PREFIX", "a..b")],
                "NATS_INBOX_PREFIX: tokens of A-Z",
            ),
        ] {
            let error = read(variables).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
