//! A filter between the client library and a server, for messages that the library cannot read.
//!
//! Whoever may submit a job can give it headers at which async-nats 0.51 panics, or drops its connection
//! (nats-io/nats.rs, pull request 1612). One such message in a queue would end the connection of each
//! consumer that gets it, again and again. So a connection that was lost although its server is still the
//! same is made again through this filter, which listens on the loopback interface for this one
//! connection, and writes anew what the library cannot read ([`wire`]): such a message arrives with the
//! header [`common::subjects::UNREADABLE_HEADER`] in the place of its own, and is dealt with like any other.
//!
//! A connection that was never lost has no filter. Once a release of async-nats reads every message, this
//! folder and its calls in `connection.rs` can be deleted.

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

/// How long it takes at most to reach the server, and to be connected to by the client.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// The longest first line of a server.
const LONGEST_GREETING: usize = 1 << 20;

/// Whether a message has arrived without its own headers, because they could not be read.
#[must_use]
pub fn is_unreadable(headers: Option<&HeaderMap>) -> bool {
    // There are few, and a look at each costs less than to find one.
    headers.is_some_and(|headers| {
        headers
            .iter()
            .any(|(name, _)| AsRef::<str>::as_ref(name) == UNREADABLE_HEADER)
    })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The filter of one client of the library.
pub(super) struct Filter {
    /// Where it is reached, in the pool of the client's servers.
    pub(super) address: ServerAddr,
    /// The servers that this client was connected to, by the id that each has from its start to its end.
    known: Mutex<HashSet<String>>,
    tls: TlsOptions,
    port: Mutex<Port>,
    /// What is said of it.
    about: Arc<About>,
}

struct About {
    purpose: String,
    unreadable: Arc<AtomicU64>,
}

/// Its port is reserved from the beginning; nothing listens there before it is needed.
enum Port {
    Reserved(TcpSocket),
    Listening(Arc<TcpListener>),
    Failed,
}

/// A connection to a server, and the line with which the server began.
struct Upstream {
    stream: Box<dyn Stream>,
    greeting: String,
}

/// Whether the filter was put in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// The client has to connect to [`Filter::address`] now.
    Made,
    /// The server is none that the client was connected to: it was started since, or is another one.
    NotNeeded,
}

impl Filter {
    /// A filter that is not in place yet. `unreadable` counts the messages that it writes anew.
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
            about: Arc::new(About {
                purpose: purpose.to_owned(),
                unreadable,
            }),
        })
    }

    /// The client was connected to this server.
    pub(super) fn know(&self, server_id: &str) {
        self.known().insert(server_id.to_owned());
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // Nothing panics while it is locked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts itself between the client and a server, if the client was connected to that server before,
    /// or in any case.
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
            connection = self.about.purpose,
            "the connection was lost though the server was not: reading through a filter, in case a message could not be read"
        );
        let about = Arc::clone(&self.about);
        tokio::spawn(async move {
            let client = tokio::time::timeout(PATIENCE, accept(&listener)).await;
            let relayed = match client {
                Ok(Ok(client)) => relay(client, upstream, &about).await,
                Ok(Err(error)) => Err(error),
                Err(elapsed) => Err(elapsed.into()),
            };
            if let Err(error) = relayed {
                debug!(connection = about.purpose, %error, "the filter ended");
            }
        });
        Ok(Offer::Made)
    }

    /// Connects to a server; `None` if there is no need for a filter.
    async fn reach(&self, server: &ServerAddr, in_any_case: bool) -> io::Result<Option<Upstream>> {
        let mut addresses = server.socket_addrs().await?;
        let address = addresses
            .next()
            .ok_or_else(|| io::Error::other("the name of the server has no address"))?;
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
        // The client is on this machine, and in the same process.
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

/// The first line of a server, without its name.
async fn greeting(stream: &mut TcpStream) -> io::Result<Value> {
    let mut line = Vec::new();
    // Nothing follows it until the client has answered.
    while !line.ends_with(b"\r\n") {
        if line.len() > LONGEST_GREETING {
            return Err(io::Error::other("the server does not end its first line"));
        }
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let json = line
        .strip_prefix(b"INFO ")
        .ok_or_else(|| io::Error::other("it is no NATS server"))?;
    Ok(serde_json::from_slice(json)?)
}

/// The connection of the client, which is one of this process: whoever else connects here is sent away.
async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    loop {
        let (client, peer) = listener.accept().await?;
        if owner::is_this_user(peer).await {
            client.set_nodelay(true)?;
            return Ok(client);
        }
        warn!(%peer, "another user connected to the filter of this process, and was sent away");
    }
}

/// Passes on what both sides send, until one of them ends.
async fn relay(mut client: TcpStream, upstream: Upstream, about: &About) -> io::Result<()> {
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
            about.count(std::mem::take(&mut rewriter.unreadable));
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

impl About {
    fn count(&self, unreadable: u64) {
        if unreadable > 0 && self.unreadable.fetch_add(unreadable, Ordering::Relaxed) == 0 {
            warn!(
                connection = self.purpose,
                "a message has a subject or headers that cannot be read, and is passed on without them (further ones are counted only)"
            );
        }
    }
}
