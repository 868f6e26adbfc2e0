//! How the bench's own processes reach NATS: as our services do, by the environment.

use std::env;
use std::io::{self, Write as _};

use anyhow::Context as _;
use async_nats::{Client, ConnectOptions};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A connection for one of the small programs, with async-nats as it comes.
pub(super) async fn connect() -> anyhow::Result<Client> {
    let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let mut options = ConnectOptions::new();
    // An open server asks for nobody's name.
    if let Ok(user) = env::var("NATS_USER") {
        options = options.user_and_password(user, variable("NATS_PASSWORD")?);
    }
    options
        .custom_inbox_prefix(variable("NATS_INBOX_PREFIX")?)
        .connect(variable("NATS_URL")?)
        .await
        .context("cannot connect to NATS")
}

/// Tells whoever started this process what came out, as one line of JSON.
pub(super) fn tell(result: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(result)?;
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// Cancelled when this process is told to end by SIGTERM.
pub(super) fn terminated() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        told.cancel();
    });
    Ok(token)
}
