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

use crate::app::{App, Front, Shared, no_connection};
use crate::auth::Access;
use crate::http::{Limits, Metrics, gate, server, tls};
use crate::system::{FleetCache, QueueCache, Safety};
use crate::{Config, api, pages};

/// Which service this is.
pub const ABOUT: About = About {
    name: "gateway",
    prefix: "GATEWAY",
    version: env!("CARGO_PKG_VERSION"),
    inbox_prefix: "_INBOX_gateway",
    monitor_port: 9474,
};

/// How long a durable job may take to be stored before its submission is answered with 503.
const CONFIRM: Duration = Duration::from_secs(5);

/// How many connections the operating system keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// Serves HTTP until the shutdown. Until NATS is reached for the first time, every request is answered
/// with 503.
///
/// # Errors
/// When the configuration is wrong, the address cannot be listened on, or NATS refuses the
/// credentials.
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
            fleet_cache: FleetCache::default(),
            queue_cache: QueueCache::default(),
            dead_letter_changes: AtomicU64::default(),
        });
        let watched = app.clone();
        tokio::spawn(async move {
            let watching = watched.safety.watch(&watched.nats);
            watched.context.shutdown.run_until_cancelled(watching).await
        });
        drop(served.send_replace(with_nats(&app)));
        info!("serving {url}");
        // The registration lasts as long as this value.
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
    // Closing connections of a previous process do not keep the address taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The routes before NATS is reached: 503 for everything but the assets of the page that says so.
fn without_nats(front: &Arc<Front>) -> Router {
    pages::asset_routes()
        .fallback(async || no_connection())
        .layer(middleware::from_fn_with_state(Arc::clone(front), gate))
}

fn with_nats(app: &App) -> Router {
    let gate = middleware::from_fn_with_state(Arc::clone(&app.front), gate);
    api::router()
        .merge(pages::router(app))
        .merge(pages::asset_routes())
        .method_not_allowed_fallback(api::no_such_method)
        .fallback(api::no_such_route)
        .layer(middleware::from_fn_with_state(
            app.clone(),
            wait_for_reconnect,
        ))
        .layer(gate)
        .with_state(app.clone())
}

/// Waits a moment for a connection that was lost just now, so that a short loss fails no request.
async fn wait_for_reconnect(State(app): State<App>, request: Request, next: Next) -> Response {
    app.nats.bridge_short_loss().await;
    next.run(request).await
}
