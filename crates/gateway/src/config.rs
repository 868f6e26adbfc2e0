use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Serves jobs over HTTP: an API for programs and a dashboard for people.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// Where HTTP is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Take durable jobs with a warning if the server may lose what it has confirmed
    #[arg(long)]
    pub accept_unsafe_server: bool,

    /// Options of every service.
    #[command(flatten)]
    pub options: bootstrap::Options,

    /// Who is let in, and what they may do.
    #[command(flatten)]
    pub access: AccessOptions,

    /// What clients may cost.
    #[command(flatten)]
    pub limits: LimitOptions,
}

/// Who is let in, and what they may do.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessOptions {
    /// TOML file with the tokens of those who may read, submit or operate; read again when it changes
    ///
    /// Each `[[token]]` has a `name`, `scopes` ("read", "submit", "operate"), and either `sha256`, the SHA-256 of the
    /// token in hex, or the `token` itself. Without a file, everybody on this machine may do everything.
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Without tokens: serve everybody who can reach --listen; needed to listen beyond this machine
    #[arg(long, conflicts_with = "tokens")]
    pub allow_anyone: bool,

    /// With --allow-anyone: the IP address on which a container runtime or a proxy publishes the gateway; on a loopback
    /// address there is no warning, because only this machine reaches it
    #[arg(long, value_name = "ADDRESS")]
    pub published_on: Option<IpAddr>,

    /// Without tokens: host names that requests may use besides localhost and IP addresses, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub host_names: Vec<String>,

    /// PEM file with the certificates for --tls-key, the gateway's own first; HTTP is then served over TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// A proxy in front of the gateway does TLS: cookies are for TLS only, and addresses are https
    ///
    /// Headers such as `X-Forwarded-Proto` are not believed: anybody can send them.
    #[arg(long)]
    pub behind_tls: bool,
}

/// What clients may cost.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Largest number of connections; for a new one, the connection that has been idle for longest is closed; if none
    /// is idle, the new one waits
    #[arg(long, value_name = "NUMBER", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub connections: u32,

    /// Largest number of connections of one peer, 0 for no limit; for a new one, the peer's connection that has been
    /// idle for longest is closed; if none is idle, the new one is closed
    ///
    /// A peer is an IPv4 address, or the first 64 bits of an IPv6 address. Behind a reverse proxy, all connections come
    /// from the address of the proxy: set 0 there, and let the proxy limit its clients.
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub connections_per_peer: u32,

    /// Largest number of requests at a time; more are answered with 429
    #[arg(long, value_name = "NUMBER", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub requests: u32,

    /// Largest number of requests that wait for the end of a job, and of event streams; more are answered with 429
    #[arg(long, value_name = "NUMBER", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub waiting: u32,

    /// How long a client may take for the headers of its next request, and for each further piece that it sends or
    /// receives
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub idle: Duration,
}
