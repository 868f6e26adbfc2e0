use std::net::SocketAddr;

use clap::Parser;

/// Serves jobs over HTTP: an API for programs and a dashboard for people.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// Where HTTP is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// What every service can be told.
    #[command(flatten)]
    pub options: bootstrap::Options,
}
