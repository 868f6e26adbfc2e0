//! Counts connections by peer, and closes idle ones to make room for new ones.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::LimitOptions;

/// The least time between two warnings that a peer has too many connections.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// The places for connections. A connection without a request under way is idle; the one that has been
/// idle for longest is closed first when a place is needed.
pub(crate) struct Peers {
    places: Arc<Semaphore>,
    /// The most connections of one peer; 0 is no bound.
    max_per_peer: usize,
    open: Mutex<Open>,
    /// Notified when a connection becomes idle.
    became_idle: Notify,
}

#[derive(Default)]
struct Open {
    /// How many connections each peer has, without those that are being closed.
    per_peer: HashMap<IpAddr, usize>,
    /// The idle connections by the order in which they became so.
    idle: BTreeMap<u64, (IpAddr, CancellationToken)>,
    next: u64,
    /// When the log last said that a peer has too many connections.
    warned: Option<Instant>,
}

/// The place of one connection; it is free when this is dropped.
pub(crate) struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
    /// Cancelled when the connection is closed to make room.
    pub(crate) closed: CancellationToken,
    state: Mutex<State>,
    _place: OwnedSemaphorePermit,
}

/// What a connection does.
#[derive(Clone, Copy)]
enum State {
    /// No request is under way. The number is its place in [`Open::idle`].
    Idle(u64),
    /// So many requests are under way.
    Busy(usize),
}

/// A request under way, until all of its answer is written or given up.
pub(crate) struct Busy(Arc<Seat>);

impl Peers {
    pub(crate) fn new(options: &LimitOptions) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(options.connections as usize)),
            max_per_peer: options.connections_per_peer as usize,
            open: Mutex::default(),
            became_idle: Notify::new(),
        })
    }

    /// Waits for a place for a connection of this address; an idle connection is closed for it. `None`
    /// if the peer has all the connections that it may have, and all are busy.
    pub(crate) async fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Seat>> {
        let peer = peer(address);
        {
            let mut open = self.open();
            let count = open.per_peer.get(&peer).copied().unwrap_or(0);
            if self.max_per_peer > 0 && count >= self.max_per_peer && !open.close_idle(Some(peer)) {
                open.warn_of_full_peer(peer, self.max_per_peer);
                return None;
            }
        }
        let place = self.place().await?;
        let closed = CancellationToken::new();
        let mut open = self.open();
        *open.per_peer.entry(peer).or_default() += 1;
        let number = open.add_idle(peer, closed.clone());
        drop(open);
        Some(Arc::new(Seat {
            peers: Arc::clone(self),
            peer,
            closed,
            state: Mutex::new(State::Idle(number)),
            _place: place,
        }))
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return Some(place);
            }
            let idle = self.became_idle.notified();
            self.open().close_idle(None);
            tokio::select! {
                // The semaphore is never closed.
                place = Arc::clone(&self.places).acquire_owned() => return place.ok(),
                () = idle => {}
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn add_idle(&mut self, peer: IpAddr, closed: CancellationToken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.idle.insert(number, (peer, closed));
        number
    }

    /// Closes the connection that has been idle for longest, of all peers or of one; false if none is
    /// idle.
    fn close_idle(&mut self, of: Option<IpAddr>) -> bool {
        let mut idle = self.idle.iter();
        let longest = idle.find(|(_, (peer, _))| of.is_none_or(|of| of == *peer));
        let Some(number) = longest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some((peer, closed)) = self.idle.remove(&number) {
            self.leave(peer);
            closed.cancel();
            debug!(%peer, "closed an idle connection to make room");
        }
        true
    }

    fn leave(&mut self, peer: IpAddr) {
        if let Some(count) = self.per_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(&peer);
            }
        }
    }

    fn warn_of_full_peer(&mut self, peer: IpAddr, max: usize) {
        if self
            .warned
            .is_none_or(|warned| warned.elapsed() >= WARN_INTERVAL)
        {
            self.warned = Some(Instant::now());
            warn!(
                %peer,
                "refused a connection: its peer has {max} with requests under way, the most that \
                 --connections-per-peer allows; behind a reverse proxy all connections come from \
                 one peer"
            );
        }
    }
}

impl Seat {
    /// Begins a request on the connection; `None` if the connection is being closed.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Busy> {
        let mut open = self.peers.open();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match *state {
            State::Idle(number) => {
                open.idle.remove(&number)?;
                State::Busy(1)
            }
            State::Busy(requests) => State::Busy(requests + 1),
        };
        drop((open, state));
        Some(Busy(Arc::clone(self)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let seat = &self.0;
        let mut open = seat.peers.open();
        let mut state = seat.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Busy(requests @ 2..) = *state {
            *state = State::Busy(requests - 1);
            return;
        }
        *state = State::Idle(open.add_idle(seat.peer, seat.closed.clone()));
        drop((open, state));
        seat.peers.became_idle.notify_one();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = match state {
            State::Idle(number) => open.idle.remove(&number).is_some(),
            State::Busy(_) => true,
        };
        if counted {
            open.leave(self.peer);
        }
    }
}

/// The peer of an address: the IPv4 address, or the first 64 bits of an IPv6 address, which are usually
/// given to one machine.
fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(connections: u32, connections_per_peer: u32) -> Arc<Peers> {
        Peers::new(&LimitOptions {
            connections,
            connections_per_peer,
            requests: 1,
            waiting: 1,
            idle: Duration::from_secs(1),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_of_a_peer_makes_room_and_a_busy_one_does_not() {
        let peers = peers(10, 2);
        let one = ip("192.0.2.1");
        let first = peers.seat(one).await.unwrap();
        let second = peers.seat(one).await.unwrap();
        let busy = first.begin().unwrap();
        let third = peers.seat(one).await.unwrap();
        assert!(second.closed.is_cancelled() && !first.closed.is_cancelled());
        assert!(second.begin().is_none(), "it is being closed");
        let working = third.begin().unwrap();
        assert!(peers.seat(one).await.is_none(), "both are at work");
        assert!(peers.seat(ip("192.0.2.2")).await.is_some());
        drop(working);
        assert!(peers.seat(one).await.is_some());
        assert!(third.closed.is_cancelled());
        drop((busy, first, second, third));
        assert!(peers.open().per_peer.is_empty() && peers.open().idle.is_empty());
    }

    #[tokio::test]
    async fn a_full_gateway_takes_the_next_one_as_soon_as_a_connection_is_idle() {
        let peers = peers(1, 0);
        let first = peers.seat(ip("192.0.2.1")).await.unwrap();
        let busy = first.begin().unwrap();
        let closed = first.closed.clone();
        let coming = tokio::spawn({
            let peers = Arc::clone(&peers);
            async move { peers.seat(ip("192.0.2.2")).await }
        });
        tokio::task::yield_now().await;
        assert!(!closed.is_cancelled() && !coming.is_finished());
        drop(busy);
        closed.cancelled().await;
        drop(first);
        assert!(coming.await.unwrap().is_some());
    }

    #[test]
    fn a_network_of_one_machine_is_one_peer() {
        assert_eq!(peer(ip("2001:db8::1")), peer(ip("2001:db8::ffff:2")));
        assert_ne!(peer(ip("2001:db8::1")), peer(ip("2001:db8:0:1::1")));
        assert_eq!(peer(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_ne!(peer(ip("192.0.2.1")), peer(ip("192.0.2.2")));
    }
}
