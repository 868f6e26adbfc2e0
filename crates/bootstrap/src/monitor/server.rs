//! The HTTP server of the monitor: three pages, read only.
//!
//! A client costs little: a connection serves one request and has a time-out, and few are served at a
//! time.

use std::net;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use connection::{Beat, Health};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::Monitor;

/// The most connections that are served at a time; others wait.
const CONNECTIONS: usize = 32;

/// Time-out of the head of a request.
const HEAD: Duration = Duration::from_secs(2);

/// Time-out of a whole connection.
const CONNECTION: Duration = Duration::from_secs(15);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// The most headers of a request.
const HEADERS: usize = 64;

/// The pause after a connection could not be accepted, for example for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Pages {
    monitor: Monitor,
    health: Health,
    shutdown: CancellationToken,
}

/// Serves the pages on its own thread until the process ends.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn serve(
    listener: net::TcpListener,
    monitor: Monitor,
    health: &Health,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    listener
        .set_nonblocking(true)
        .context("cannot serve metrics")?;
    let pages = Pages {
        monitor,
        health: health.clone(),
        shutdown,
    };
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || page(StatusCode::OK, "alive\n")))
        .route("/readyz", get(readyz))
        .with_state(pages);
    health.on_own_thread(
        "monitor",
        async move |heartbeat| match TcpListener::from_std(listener) {
            Ok(listener) => accept(listener, routes, heartbeat).await,
            Err(error) => error!(%error, "cannot serve metrics"),
        },
    )
}

async fn accept(listener: TcpListener, routes: Router, mut heartbeat: Beat) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = heartbeat.during(Duration::MAX, next).await;
        match accepted {
            Ok((stream, _)) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    let ended = tokio::time::timeout(CONNECTION, answer(stream, routes)).await;
                    if let Ok(Err(error)) = ended {
                        debug!(%error, "a request to the monitor failed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                debug!(%error, "cannot accept a connection to the monitor");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, routes: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.monitor.scrape() {
        Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
        Err(error) => {
            error!(%error, "cannot write the metrics");
            page(StatusCode::INTERNAL_SERVER_ERROR, "cannot be written\n")
        }
    }
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    if pages.shutdown.is_cancelled() {
        let text = match pages.health.failure() {
            Some(why) => format!("stopping: {why}\n"),
            None => "stopping\n".to_owned(),
        };
        return page(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let health = pages.health.readiness();
    let status = if health.healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    page(status, format!("{}\n", health.reason))
}

fn page(status: StatusCode, text: impl Into<String>) -> axum::response::Response {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    text: String,
) -> axum::response::Response {
    const HEADERS: [(HeaderName, HeaderValue); 2] = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (
        status,
        [(header::CONTENT_TYPE, content_type)],
        HEADERS,
        text,
    )
        .into_response()
}
