//! A way to a server that can be broken in several manners.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Open,
    /// Connections are closed, and new ones too.
    Cut,
    /// Connections stay open, and nothing passes.
    HalfOpen,
    /// Nothing passes from the server to its clients.
    OneWay,
    /// Each piece is so late.
    Late(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Passage {
    fn holds(self, direction: Direction) -> bool {
        self == Self::HalfOpen || (self == Self::OneWay && direction == Direction::ToClient)
    }
}

pub(super) struct Proxy {
    port: u16,
    way: watch::Sender<Passage>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A way to this port of this machine.
    pub(super) async fn to(target: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("cannot listen for the proxy")?;
        let port = listener.local_addr()?.port();
        let (way, watched) = watch::channel(Passage::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, target, watched));
        Ok(Self {
            port,
            way,
            _tasks: tasks,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(super) fn set(&self, way: Passage) {
        self.way.send_replace(way);
    }
}

async fn serve(listener: TcpListener, target: u16, way: watch::Receiver<Passage>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(relay(client, target, way.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends when one of the ends is closed, or the way is cut.
async fn relay(client: TcpStream, target: u16, way: watch::Receiver<Passage>) {
    if *way.borrow() == Passage::Cut {
        return;
    }
    // The server may be away, and then this client is turned away too.
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = way.clone();
    tokio::select! {
        () = pump(from_client, to_server, Direction::ToServer, way.clone()) => {}
        () = pump(from_server, to_client, Direction::ToClient, way) => {}
        _ = cut.wait_for(|way| *way == Passage::Cut) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut way: watch::Receiver<Passage>,
) {
    let mut buffer = vec![0; 16384];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let late = match way.wait_for(|way| !way.holds(direction)).await.as_deref() {
            Ok(Passage::Late(late)) => *late,
            Ok(_) => Duration::ZERO,
            Err(_) => return,
        };
        if !late.is_zero() {
            tokio::time::sleep(late).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that returns what it is sent, and a connection to it through a proxy.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        let proxy = Proxy::to(port).await.unwrap();
        let stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        (proxy, stream)
    }

    async fn says(stream: &mut TcpStream) -> String {
        let mut buffer = [0; 16];
        let length = stream.read(&mut buffer).await.unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn what_was_held_back_comes_when_the_way_is_open_again() {
        let (proxy, mut stream) = echo().await;
        stream.write_all(b"one").await.unwrap();
        assert_eq!(says(&mut stream).await, "one");
        for way in [Passage::HalfOpen, Passage::OneWay] {
            proxy.set(way);
            stream.write_all(b"two").await.unwrap();
            let moment = Duration::from_millis(50);
            let early = tokio::time::timeout(moment, says(&mut stream)).await;
            assert!(early.is_err(), "{way:?}: {early:?}");
            proxy.set(Passage::Open);
            assert_eq!(says(&mut stream).await, "two");
        }
    }

    #[tokio::test]
    async fn a_cut_closes_connections_and_refuses_new_ones_until_it_is_mended() {
        let (proxy, mut stream) = echo().await;
        stream.write_all(b"one").await.unwrap();
        assert_eq!(says(&mut stream).await, "one");
        proxy.set(Passage::Cut);
        assert_eq!(says(&mut stream).await, "");
        let mut other = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        assert_eq!(says(&mut other).await, "");
        proxy.set(Passage::Late(Duration::from_millis(1)));
        let mut third = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        third.write_all(b"late").await.unwrap();
        assert_eq!(says(&mut third).await, "late");
    }
}
