//! The options of the connection to NATS, with the variables of the `nats` command line.

use std::path::PathBuf;

use connection::{InboxPrefix, ServerAddr};

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
        id = "nats_inbox_prefix",
        long = "nats-inbox-prefix",
        value_name = "PREFIX",
        env = "NATS_INBOX_PREFIX"
    )]
    inbox_prefix: Option<InboxPrefix>,
}

impl NatsOptions {
    /// The same for the connection.
    pub(crate) fn to_connection(&self) -> connection::Options {
        let mut options = connection::Options::new().addresses(self.url.clone());
        if let Some(user) = &self.user {
            options = options.user(user, self.password.clone().unwrap_or_default());
        }
        if let Some(token) = &self.token {
            options = options.token(token);
        }
        if let Some(path) = &self.creds {
            options = options.credentials_file(path);
        }
        if let Some(path) = &self.nkey {
            options = options.nkey_file(path);
        }
        if let Some(path) = &self.ca {
            options = options.ca_file(path);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            options = options.certificate_files(cert, key);
        }
        match &self.inbox_prefix {
            Some(prefix) => options.inbox_prefix(prefix.clone()),
            None => options,
        }
    }
}

impl std::fmt::Debug for NatsOptions {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_connection().fmt(f)
    }
}
