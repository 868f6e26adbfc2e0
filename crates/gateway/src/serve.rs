use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::{Router, middleware};
use bootstrap::{About, Context};
use client::{Patience, Submitter};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::access::Access;
use crate::app::{App, Front, Shared, no_connection};
use crate::fleet::FleetCache;
use crate::gate::gate;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::safety::Safety;
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

/// Serves HTTP until it is told to stop. Until NATS is reached for the first time, clients are told
/// to come again.
///
/// # Errors
/// When the address cannot be listened on, it would be open to others by mistake, or NATS refuses
/// the connection.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let access = Access::new(&context, &config)?;
    let tls = tls::acceptor(&config.access)?;
    let listener = listen(config.listen)
        .with_context(|| format!("cannot listen on {} (--listen)", config.listen))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    info!("listening on {url}, connecting to NATS");
    let metrics = Metrics::default();
    context.monitor.register(metrics.clone());
    let front = Arc::new(Front {
        context,
        access,
        limits: Limits::new(&config.limits),
        metrics,
        to_finish: TaskTracker::new(),
    });
    let (served, routes) = watch::channel(without_nats(&front));
    let opening = async {
        let context = &front.context;
        let nats = context.connect("gateway").await?;
        let registered = context.register(&nats).await?;
        let patience = Patience {
            confirm: CONFIRM,
            wait_for_nats: false,
            wait_for_room: false,
        };
        let app = App::new(Shared {
            front: Arc::clone(&front),
            submitter: Submitter::new(&nats, patience),
            safety: Safety::new(config.accept_unsafe_server),
            nats,
            fleet: FleetCache::default(),
            letter_changes: AtomicU64::default(),
        });
        let watched = app.clone();
        tokio::spawn(async move {
            let watching = watched.safety.watch(&watched.nats);
            watched.context.shutdown.run_until_cancelled(watching).await
        });
        drop(served.send_replace(with_nats(&app)));
        info!("serving {url}");
        // Whoever is registered is so for as long as this is held.
        anyhow::Ok(registered)
    };
    let serving = async {
        server::run(listener, tls, routes, &front, &config.limits).await;
        Ok(())
    };
    tokio::try_join!(serving, opening)?;
    Ok(ExitCode::SUCCESS)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections of the process before, which are just ending, do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Says of everything that NATS is away, and serves what the page loads that says it.
fn without_nats(front: &Arc<Front>) -> Router {
    pages::assets()
        .fallback(async || no_connection())
        .layer(middleware::from_fn_with_state(Arc::clone(front), gate))
}

fn with_nats(app: &App) -> Router {
    let gate = middleware::from_fn_with_state(Arc::clone(&app.front), gate);
    api::router()
        .merge(pages::router(app))
        .merge(pages::assets())
        .method_not_allowed_fallback(api::no_such_method)
        .fallback(api::no_such_route)
        .layer(middleware::from_fn_with_state(
            app.clone(),
            wait_for_reconnect,
        ))
        .layer(gate)
        .with_state(app.clone())
}

/// A connection that was lost just now, at a message that could not be read perhaps, is there again
/// before anybody has to be told.
async fn wait_for_reconnect(State(app): State<App>, request: Request, next: Next) -> Response {
    app.nats.bridge_short_loss().await;
    next.run(request).await
}
