//! HTTP for machines that look on: three pages, to be read only.
//!
//! Who connects costs little and for a short time: a connection serves one request, there are
//! few of them at a time, and each has an end.

use std::net;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::Monitor;
use crate::health::Health;
use crate::task::Beat;

/// How many connections are served at a time; more wait until one of them ends.
const CONNECTIONS: usize = 32;

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(2);

/// How long a connection may take from its beginning to its end.
const CONNECTION: Duration = Duration::from_secs(15);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// The most headers of a request.
const HEADERS: usize = 64;

/// The pause after a connection could not be accepted, because there are no more descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Pages {
    monitor: Monitor,
    health: Health,
    shutdown: CancellationToken,
}

/// Serves until the process ends, on a thread of its own.
///
/// # Errors
/// When there can be no thread.
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
    health.on_own_thread("monitor", async move |life| {
        match TcpListener::from_std(listener) {
            Ok(listener) => accept(listener, routes, life).await,
            Err(error) => error!(%error, "cannot serve metrics"),
        }
    })
}

async fn accept(listener: TcpListener, routes: Router, mut life: Beat) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            // It is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = life.during(Duration::MAX, next).await;
        match accepted {
            Ok((stream, _)) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    let ended = tokio::time::timeout(CONNECTION, answer(stream, routes)).await;
                    if let Ok(Err(error)) = ended {
                        debug!(%error, "a request for metrics broke off");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                debug!(%error, "a connection for metrics was not accepted");
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
            error!(%error, "metrics cannot be written");
            page(StatusCode::INTERNAL_SERVER_ERROR, "cannot be written\n")
        }
    }
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    if pages.shutdown.is_cancelled() {
        let text = match pages.health.tasks.failure() {
            Some(why) => format!("stopping: {why}\n"),
            None => "stopping\n".to_owned(),
        };
        return page(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let health = pages.health.answer();
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
