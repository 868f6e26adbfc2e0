use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use axum::{Router, middleware};
use bootstrap::{About, Context};
use durable::{Patience, Submitter};
use tokio::net::TcpSocket;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::access::Access;
use crate::app::{App, Shared};
use crate::gate::gate;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::{Config, api, pages, server, tls};

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

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Serves HTTP until it is told to stop.
///
/// # Errors
/// When the address cannot be listened on, it would be open to others by mistake, or NATS refuses
/// the connection.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let access = Access::new(&context, &config)?;
    let tls = tls::acceptor(&config.access)?;
    let listening = || format!("cannot listen on {} (--listen)", config.listen);
    // The address is ours from here on. Clients are refused until there is somebody who serves them.
    let socket = bind(config.listen).with_context(listening)?;
    let nats = context.connect("gateway").await?;
    let _registered = context.register(&nats).await?;
    let patience = Patience {
        confirm: CONFIRM,
        wait_for_nats: false,
        wait_for_room: false,
    };
    let metrics = Metrics::default();
    context.monitor.register(metrics.clone());
    let app = App::new(Shared {
        submitter: Submitter::new(&nats, patience),
        nats,
        context,
        access,
        limits: Limits::new(&config.limits),
        fleet: crate::fleet::FleetCache::default(),
        metrics,
        to_finish: TaskTracker::new(),
    });
    let listener = socket.listen(BACKLOG).with_context(listening)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    info!("serving {scheme}://{}", listener.local_addr()?);
    server::run(listener, tls, routes(&app), &app, &config.limits).await;
    Ok(ExitCode::SUCCESS)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections of the process before, which are just ending, do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn routes(app: &App) -> Router {
    let gate = middleware::from_fn_with_state(app.clone(), gate);
    api::router()
        .merge(pages::router(app))
        .method_not_allowed_fallback(api::no_such_method)
        .fallback(api::no_such_route)
        .layer(gate)
        .with_state(app.clone())
}
