//! A filter between the client library and a server, for messages that the library cannot read.
//!
//! Anyone who may submit a job can give it headers at which async-nats 0.51 panics or drops its
//! connection (nats-io/nats.rs, pull request 1612). One such message in a queue would end the connection
//! of each consumer that gets it, again and again. So when a connection is lost although its server has
//! not restarted, it is made again through this filter. The filter listens on the loopback interface for
//! this one connection, and rewrites the messages that the library cannot read ([`wire`]): they arrive
//! with the header [`common::subjects::UNREADABLE_HEADER`] in place of their own headers.
//!
//! A connection that was never lost has no filter. Once a release of async-nats reads every message, this
//! folder and its calls in `connector.rs` and `server_choice.rs` can be deleted.

mod owner;
mod tls;
mod wire;

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, ServerAddr};
use bytes::BytesMut;
use common::subjects::UNREADABLE_HEADER;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::{debug, info, warn};

pub(super) use self::tls::TlsOptions;
use self::wire::Rewriter;
pub use self::wire::read_headers;

/// Time-out of connecting to the server, and of waiting for the client to connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many bytes are read at a time.
const CHUNK: usize = 64 * 1024;

/// The longest first line of a server (`INFO`), in bytes.
const LONGEST_GREETING: usize = 1 << 20;

/// Whether a message arrived without its own headers, because they or its subject could not be read.
#[must_use]
pub fn is_unreadable(headers: Option<&HeaderMap>) -> bool {
    // There are few headers: to compare all costs less than a look-up.
    headers.is_some_and(|headers| {
        headers
            .iter()
            .any(|(name, _)| AsRef::<str>::as_ref(name) == UNREADABLE_HEADER)
    })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The filter of one library client.
pub(super) struct Filter {
    /// Its own address, which is in the client's pool of servers.
    pub(super) address: ServerAddr,
    /// The ids of the servers that this client was connected to. A server has a new id after a restart.
    known: Mutex<HashSet<String>>,
    tls: TlsOptions,
    port: Mutex<Port>,
    stats: Arc<Stats>,
}

struct Stats {
    /// The purpose of the connection, for log lines.
    purpose: String,
    /// How many messages were rewritten.
    unreadable: Arc<AtomicU64>,
}

/// The port of the filter. It is reserved from the beginning, but only listened on when needed.
enum Port {
    Reserved(TcpSocket),
    Listening(Arc<TcpListener>),
    Failed,
}

/// A connection to a server, and the first line of the server.
struct Upstream {
    stream: Box<dyn Stream>,
    greeting: String,
}

/// Whether the filter is in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is: the client has to connect to [`Filter::address`] now.
    Made,
    /// The client was not connected to this server before, or the server has restarted since.
    NotNeeded,
}

impl Filter {
    /// A filter that is not in place yet. `unreadable` counts the messages that it rewrites.
    ///
    /// # Errors
    /// When there is no free port on the loopback interface.
    pub(super) fn new(
        purpose: &str,
        tls: TlsOptions,
        unreadable: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let port = socket.local_addr()?.port();
        Ok(Self {
            address: format!("nats://{}:{port}", Ipv4Addr::LOCALHOST).parse()?,
            known: Mutex::default(),
            tls,
            port: Mutex::new(Port::Reserved(socket)),
            stats: Arc::new(Stats {
                purpose: purpose.to_owned(),
                unreadable,
            }),
        })
    }

    /// Remembers that the client was connected to this server.
    pub(super) fn remember(&self, server_id: &str) {
        self.known().insert(server_id.to_owned());
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // Nothing panics while it is locked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to a server and waits for the client, if the client was connected to that server before
    /// or `in_any_case`.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(super) async fn offer(&self, server: &ServerAddr, in_any_case: bool) -> io::Result<Offer> {
        let reach = tokio::time::timeout(PATIENCE, self.reach(server, in_any_case));
        let Some(upstream) = reach.await?? else {
            return Ok(Offer::NotNeeded);
        };
        let listener = self.listen()?;
        info!(
            connection = self.stats.purpose,
            "the connection was lost although the server did not stop: reading through a filter, in case a message could not be read"
        );
        let stats = Arc::clone(&self.stats);
        tokio::spawn(async move {
            let client = tokio::time::timeout(PATIENCE, accept(&listener)).await;
            let relayed = match client {
                Ok(Ok(client)) => relay(client, upstream, &stats).await,
                Ok(Err(error)) => Err(error),
                Err(elapsed) => Err(elapsed.into()),
            };
            if let Err(error) = relayed {
                debug!(connection = stats.purpose, %error, "the filter ended");
            }
        });
        Ok(Offer::Made)
    }

    /// Connects to a server; `None` if no filter is needed.
    async fn reach(&self, server: &ServerAddr, in_any_case: bool) -> io::Result<Option<Upstream>> {
        let mut addresses = server.socket_addrs().await?;
        let address = addresses
            .next()
            .ok_or_else(|| io::Error::other("the host name of the server has no address"))?;
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut greeting = greeting(&mut stream).await?;
        let id = greeting["server_id"].as_str().unwrap_or_default();
        if !in_any_case && !self.known().contains(id) {
            return Ok(None);
        }
        let asks_for_tls = greeting["tls_required"] == Value::Bool(true);
        let stream: Box<dyn Stream> = if asks_for_tls || server.tls_required() || self.tls.required
        {
            Box::new(self.tls.connect(stream, server.host()).await?)
        } else {
            Box::new(stream)
        };
        // The client is in the same process, so it needs no TLS.
        greeting["tls_required"] = Value::Bool(false);
        greeting["tls_available"] = Value::Bool(false);
        Ok(Some(Upstream {
            stream,
            greeting: format!("INFO {greeting}\r\n"),
        }))
    }

    fn listen(&self) -> io::Result<Arc<TcpListener>> {
        // Nothing panics while it is locked.
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let listening = match std::mem::replace(&mut *port, Port::Failed) {
            Port::Reserved(socket) => Arc::new(socket.listen(1)?),
            Port::Listening(listener) => listener,
            Port::Failed => return Err(io::Error::other("the filter cannot listen")),
        };
        *port = Port::Listening(Arc::clone(&listening));
        Ok(listening)
    }
}

/// The JSON of a server's first line.
async fn greeting(stream: &mut TcpStream) -> io::Result<Value> {
    let mut line = Vec::new();
    // The server sends nothing more until the client has answered.
    while !line.ends_with(b"\r\n") {
        if line.len() > LONGEST_GREETING {
            return Err(io::Error::other("the first line of the server has no end"));
        }
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let json = line
        .strip_prefix(b"INFO ")
        .ok_or_else(|| io::Error::other("not a NATS server"))?;
    Ok(serde_json::from_slice(json)?)
}

/// Accepts the connection of the client, which is in this process. Connections of other processes are
/// closed.
async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    loop {
        let (client, peer) = listener.accept().await?;
        if owner::is_this_process(&client).await {
            client.set_nodelay(true)?;
            return Ok(client);
        }
        warn!(%peer, "another process connected to the filter of this process: connection closed");
    }
}

/// Relays both directions until one side ends, and rewrites messages on their way to the client.
async fn relay(mut client: TcpStream, upstream: Upstream, stats: &Stats) -> io::Result<()> {
    client.write_all(upstream.greeting.as_bytes()).await?;
    let (mut from_server, mut to_server) = tokio::io::split(upstream.stream);
    let (mut from_client, mut to_client) = client.split();
    let filter = async {
        let mut rewriter = Rewriter::default();
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            input.reserve(CHUNK);
            if from_server.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            rewriter.rewrite(&mut input, &mut output)?;
            stats.count(std::mem::take(&mut rewriter.unreadable));
            to_client.write_all(&output).await?;
            output.clear();
        }
    };
    let pass_on = async {
        let passed_on = tokio::io::copy(&mut from_client, &mut to_server).await;
        passed_on.map(|_| ())
    };
    tokio::select! {
        ended = filter => ended,
        ended = pass_on => ended,
    }
}

impl Stats {
    fn count(&self, unreadable: u64) {
        if unreadable > 0 && self.unreadable.fetch_add(unreadable, Ordering::Relaxed) == 0 {
            warn!(
                connection = self.purpose,
                "a message has a subject or headers that cannot be read, and is passed on without them (further ones are only counted)"
            );
        }
    }
}
