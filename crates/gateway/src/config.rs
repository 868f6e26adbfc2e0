use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Serves jobs over HTTP: an API for programs and a dashboard for people.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// Where HTTP is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Take durable jobs also where the server may lose what it has confirmed, with a warning
    #[arg(long)]
    pub accept_unsafe_server: bool,

    /// What every service can be told.
    #[command(flatten)]
    pub options: bootstrap::Options,

    /// Who may do what, and who is let in.
    #[command(flatten)]
    pub access: AccessOptions,

    /// What clients may cost.
    #[command(flatten)]
    pub limits: LimitOptions,
}

/// Who may do what, and who is let in.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessOptions {
    /// TOML file with the tokens of those who may read, submit or operate; read again when it changes
    ///
    /// Each `[[token]]` has a `name`, `scopes` ("read", "submit", "operate"), and either `sha256`, the SHA-256 of the
    /// token in hex, or the `token` itself. Without a file whoever comes from this machine may do everything.
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Let everybody who can reach --listen do everything; needed to listen beyond loopback without --tokens
    #[arg(long, conflicts_with = "tokens")]
    pub allow_anyone: bool,

    /// Without tokens: names of this host, separated by commas, under which it may be asked besides localhost and IP
    /// addresses
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub host_names: Vec<String>,

    /// PEM file with the certificates of --tls-key, the own one first; HTTP is served over TLS then
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// People reach this over TLS that something before it does: cookies are for TLS only, and addresses are https
    ///
    /// This is not taken from what a request says of itself, such as `X-Forwarded-Proto`: anybody could say it.
    #[arg(long)]
    pub behind_tls: bool,
}

/// What clients may cost.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// The most connections; for another one the one that is idle for longest is closed, and where none is, it waits
    #[arg(long, value_name = "NUMBER", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub connections: u32,

    /// The most connections of one peer, 0 for no bound: for another one the one that is idle for longest is closed, and
    /// where none is, the new one
    ///
    /// A peer is an IPv4 address, or the first 64 bits of an IPv6 address. Behind a reverse proxy all connections come
    /// from the address of the proxy: set 0 there, and let the proxy bound what each client has.
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub connections_per_peer: u32,

    /// The most requests that are worked at; more are answered with 429
    #[arg(long, value_name = "NUMBER", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub requests: u32,

    /// The most requests that wait for the end of a job, and the most event streams; more are answered with 429
    #[arg(long, value_name = "NUMBER", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub waiting: u32,

    /// How long a client may take to send the headers of its next request, and to send or take each further piece
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub idle: Duration,
}
