use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::{About, Context};
use durable::{Patience, Submitter};
use tokio::net::TcpListener;
use tracing::info;

use crate::app::App;
use crate::{Config, api, pages};

/// Which service this is.
pub const ABOUT: About = About {
    name: "gateway",
    prefix: "GATEWAY",
    version: env!("CARGO_PKG_VERSION"),
    inbox_prefix: "_INBOX_gateway",
    monitor_port: 9474,
};

/// How long a submission may take before the client is told to come again.
const CONFIRM: Duration = Duration::from_secs(5);

/// Serves HTTP until it is told to stop.
///
/// # Errors
/// When the address cannot be listened on, or NATS refuses the connection.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen)", config.listen))?;
    let nats = context.connect("gateway").await?;
    let _registered = context.register(&nats).await?;
    let patience = Patience {
        confirm: CONFIRM,
        wait_for_nats: false,
        wait_for_room: false,
    };
    let app = App {
        submitter: Submitter::new(&nats, patience),
        nats,
        context: context.clone(),
    };
    let routes = api::router().merge(pages::router()).with_state(app);
    info!(address = %listener.local_addr()?, "serving HTTP");
    axum::serve(listener, routes)
        .with_graceful_shutdown(context.shutdown.clone().cancelled_owned())
        .await?;
    Ok(ExitCode::SUCCESS)
}
