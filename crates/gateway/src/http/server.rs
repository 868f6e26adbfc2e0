//! Accepts connections, bounds how slow a client may be, and ends them at the shutdown.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bootstrap::STILL;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::peers::{Busy, Peers, Seat};
use crate::app::Front;
use crate::config::LimitOptions;

/// The most bytes of the headers of a request.
const MAX_HEADERS: usize = 32 << 10;

/// The wait after a connection could not be accepted: the process may have no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The part of the grace period that is left for what comes after the last connection.
const AFTER_CONNECTIONS: Duration = Duration::from_millis(500);

/// Accepts connections until the shutdown, then waits for the requests under way. Each request uses the
/// routes that are current when it comes.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: watch::Receiver<Router>,
    front: &Front,
    limits: &LimitOptions,
) {
    let shutdown = &front.context.shutdown;
    let peers = Peers::new(limits);
    let connections = TaskTracker::new();
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(MAX_HEADERS);
    let mut heartbeat = front.context.health.task("connections", STILL);
    loop {
        // While all places are taken, this waits as long as it takes.
        let next = heartbeat.during(Duration::MAX, next(&listener, &peers, front));
        let Some((stream, seat)) = shutdown.run_until_cancelled(next).await else {
            break;
        };
        let connection = Connection {
            protocol: protocol.clone(),
            routes: routes.clone(),
            idle: limits.idle,
            shutdown: shutdown.clone(),
            seat: Arc::clone(&seat),
        };
        let tls = tls.clone();
        let open = Open::count(&front.metrics.connections);
        connections.spawn(async move {
            // A connection that is closed to make room has no request under way, so it is dropped.
            let accepting = connection.accept(stream, tls);
            let _ = seat.closed.run_until_cancelled(accepting).await;
            drop((open, seat));
        });
    }
    drop((listener, heartbeat));
    connections.close();
    let left = connections.len();
    if left > 0 {
        debug!(connections = left, "waiting for requests under way");
    }
    let grace = front.context.grace.saturating_sub(AFTER_CONNECTIONS);
    let all = async {
        connections.wait().await;
        // No request is left to begin new work; work whose client has gone may still run.
        front.to_finish.close();
        front.to_finish.wait().await;
    };
    if tokio::time::timeout(grace, all).await.is_err() {
        warn!(
            connections = connections.len(),
            "gave up requests that did not end within the grace period"
        );
    } else {
        info!("all requests are answered");
    }
}

async fn next(listener: &TcpListener, peers: &Arc<Peers>, front: &Front) -> (TcpStream, Arc<Seat>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if front.access.serves(peer.ip()) => {
                if let Some(seat) = peers.seat(peer.ip()).await {
                    return (stream, seat);
                }
            }
            Ok((_, peer)) => debug!(%peer, "refused a connection from another machine"),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a connection while it is open, also if serving it panics.
struct Open(Gauge);

impl Open {
    fn count(connections: &Gauge) -> Self {
        connections.inc();
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The error of a request on a connection that is being closed to make room.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was closed to make room")
    }
}

impl std::error::Error for Closed {}

/// The body of an answer. Its connection counts as busy until the last piece is written, or the client
/// stops reading.
struct Answer {
    body: axum::body::Body,
    _busy: Busy,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Connection {
    protocol: http1::Builder,
    routes: watch::Receiver<Router>,
    idle: Duration,
    shutdown: CancellationToken,
    seat: Arc<Seat>,
}

impl Connection {
    async fn accept(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // An answer is sent at once, without waiting for more bytes.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection was lost at once");
            return;
        }
        // A client that does not read its answer is cut off.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.idle));
        let stream = Box::pin(stream);
        let Some(tls) = tls else {
            return self.serve(stream).await;
        };
        match tokio::time::timeout(self.idle, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => debug!(%error, "the TLS handshake with a client failed"),
            Err(_) => debug!("the TLS handshake with a client took too long"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let service = service_fn(|request| {
            let routes = self.routes.borrow().clone();
            let busy = self.seat.begin();
            async move {
                let busy = busy.ok_or(Closed)?;
                let Ok(answer) = TowerToHyperService::new(routes).call(request).await;
                Ok::<_, Closed>(answer.map(|body| Answer { body, _busy: busy }))
            }
        });
        let serving = self
            .protocol
            .serve_connection(TokioIo::new(stream), service);
        let mut serving = pin!(serving);
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = self.shutdown.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = served {
            debug!(%error, "a connection ended early");
        }
    }
}
