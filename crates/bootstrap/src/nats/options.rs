//! The options of the connection to NATS, with the variables of the `nats` command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{ConnectOptions, ServerAddr};

use super::filter::TlsOptions;

/// How many messages the client library buffers for one subscription before it drops some. It is more
/// than a server sends to a client that does not read (`max_pending`, 64 MiB by default), so nothing is
/// ever dropped. As a bound it costs no memory.
const SUBSCRIPTION_CAPACITY: usize = 4 * 1024 * 1024;

/// Where NATS is, and who the service is there.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// Servers, separated by commas; `tls://` asks for TLS
    #[arg(
        id = "nats_url",
        long = "nats-url",
        value_name = "URL",
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_delimiter = ',',
        hide_env_values = true
    )]
    url: Vec<ServerAddr>,

    /// User name
    #[arg(
        id = "nats_user",
        long = "nats-user",
        value_name = "NAME",
        env = "NATS_USER"
    )]
    user: Option<String>,

    /// Password of the user; better set as a variable than on a command line that others can see
    #[arg(
        id = "nats_password",
        long = "nats-password",
        value_name = "PASSWORD",
        env = "NATS_PASSWORD",
        hide_env_values = true,
        requires = "nats_user"
    )]
    password: Option<String>,

    /// Token, where the server asks for one
    #[arg(
        id = "nats_token",
        long = "nats-token",
        value_name = "TOKEN",
        env = "NATS_TOKEN",
        hide_env_values = true,
        conflicts_with = "nats_user"
    )]
    token: Option<String>,

    /// File with a user's JWT and seed
    #[arg(
        id = "nats_creds",
        long = "nats-creds",
        value_name = "FILE",
        env = "NATS_CREDS"
    )]
    creds: Option<PathBuf>,

    /// File with a user's NKEY seed
    #[arg(
        id = "nats_nkey",
        long = "nats-nkey",
        value_name = "FILE",
        env = "NATS_NKEY"
    )]
    nkey: Option<PathBuf>,

    /// File with the certificates of the authorities that may vouch for the server, in PEM
    #[arg(id = "nats_ca", long = "nats-ca", value_name = "FILE", env = "NATS_CA")]
    ca: Option<PathBuf>,

    /// File with this client's certificate, in PEM
    #[arg(
        id = "nats_cert",
        long = "nats-cert",
        value_name = "FILE",
        env = "NATS_CERT",
        requires = "nats_key"
    )]
    cert: Option<PathBuf>,

    /// File with the key of this client's certificate, in PEM
    #[arg(
        id = "nats_key",
        long = "nats-key",
        value_name = "FILE",
        env = "NATS_KEY",
        requires = "nats_cert"
    )]
    key: Option<PathBuf>,

    /// What inbox subjects begin with [default: `_INBOX_` and the service's user in deploy/nats.conf]
    #[arg(
        id = "nats_inbox_prefix", long = "nats-inbox-prefix", value_name = "PREFIX",
        env = "NATS_INBOX_PREFIX", value_parser = inbox_prefix
    )]
    inbox_prefix: Option<String>,
}

impl NatsOptions {
    /// The servers without credentials, for logs.
    pub(super) fn servers(&self) -> String {
        let shown = self
            .url
            .iter()
            .map(|url| format!("{}:{}", url.host(), url.port()));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Whether connections without TLS are refused, even if the server allows them.
    fn requires_tls(&self) -> bool {
        self.ca.is_some() || self.cert.is_some()
    }

    /// The addresses of the servers, with the scheme `tls` if TLS is required.
    ///
    /// # Errors
    /// When an address cannot have that scheme.
    pub(super) fn addresses(&self) -> anyhow::Result<Vec<ServerAddr>> {
        if !self.requires_tls() {
            return Ok(self.url.clone());
        }
        // The library's own option would also apply to the address of the filter.
        let with_tls = self.url.iter().map(|url| {
            let mut url = url.clone().into_inner();
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
    pub(super) fn tls(&self) -> TlsOptions {
        TlsOptions {
            required: self.requires_tls(),
            ca: self.ca.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
        }
    }

    pub(super) async fn connect_options(
        &self,
        default_inbox: &str,
    ) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .custom_inbox_prefix(self.inbox_prefix.as_deref().unwrap_or(default_inbox))
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
            options = options.user_and_password(user.to_owned(), password.to_owned());
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
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            read(cert, "NATS_CERT")?;
            read(key, "NATS_KEY")?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options)
    }
}

/// Reads a file before the library does: the library's errors do not name it.
fn read(path: &Path, variable: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {variable} {}", path.display()))
}

fn inbox_prefix(text: &str) -> Result<String, String> {
    let token = |token: &str| {
        !token.is_empty()
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if text.split('.').all(token) {
        Ok(text.to_owned())
    } else {
        Err("tokens of A-Z a-z 0-9 _ - joined by single dots".to_owned())
    }
}

impl std::fmt::Debug for NatsOptions {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsOptions")
            .field("servers", &self.servers())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
