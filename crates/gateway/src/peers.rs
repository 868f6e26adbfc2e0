//! Whose connections there are, and which of them may be closed to make room for others.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::LimitOptions;

/// How often the log says that a peer has too many connections.
const TELL: Duration = Duration::from_mins(1);

/// The places for connections. A connection is idle as long as no request of it is worked at; the
/// one that has been so for longest is closed first when room is short.
pub(crate) struct Peers {
    places: Arc<Semaphore>,
    /// The most connections of one peer; 0 is no bound.
    most: usize,
    open: Mutex<Open>,
    /// A connection has become idle.
    idle: Notify,
}

#[derive(Default)]
struct Open {
    /// How many connections each peer has, without those that are being closed.
    of: HashMap<IpAddr, usize>,
    /// The idle connections by the order in which they became so.
    idle: BTreeMap<u64, (IpAddr, CancellationToken)>,
    next: u64,
    told: Option<Instant>,
}

/// The place of one connection; it is free when this is dropped.
pub(crate) struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
    /// It is closed to make room.
    pub(crate) closed: CancellationToken,
    state: Mutex<State>,
    _place: OwnedSemaphorePermit,
}

/// What one connection does.
#[derive(Clone, Copy)]
enum State {
    /// Nothing, since this number.
    Idle(u64),
    /// So many requests are worked at.
    Busy(usize),
}

/// A request that is worked at, until all of its answer is written or given up.
pub(crate) struct Busy(Arc<Seat>);

impl Peers {
    pub(crate) fn new(options: &LimitOptions) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(options.connections as usize)),
            most: options.connections_per_peer as usize,
            open: Mutex::default(),
            idle: Notify::new(),
        })
    }

    /// A place for a connection of this peer, as soon as there is one: an idle connection is closed
    /// for it. Nothing if the peer has as many as it may have, and all of them are at work.
    pub(crate) async fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Seat>> {
        let peer = peer(address);
        {
            let mut open = self.open();
            let count = open.of.get(&peer).copied().unwrap_or(0);
            if self.most > 0 && count >= self.most && !open.close_idle(Some(peer)) {
                open.tell(peer, self.most);
                return None;
            }
        }
        let place = self.place().await?;
        let closed = CancellationToken::new();
        let mut open = self.open();
        *open.of.entry(peer).or_default() += 1;
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
            let idle = self.idle.notified();
            self.open().close_idle(None);
            tokio::select! {
                // It is never closed.
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

    /// Closes the connection that has been idle for longest, of all or of one peer; false if there
    /// is none.
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
        if let Some(count) = self.of.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&peer);
            }
        }
    }

    fn tell(&mut self, peer: IpAddr, most: usize) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            warn!(
                %peer,
                "closed a new connection of a peer that has {most} with requests under way, which \
                 are the most (--connections-per-peer); behind a reverse proxy all connections are \
                 of one peer"
            );
        }
    }
}

impl Seat {
    /// A request of the connection begins; nothing if the connection is being closed.
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
        seat.peers.idle.notify_one();
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

/// Who counts as one peer: an IPv4 address, or the 64 bits of an IPv6 address that a network gives
/// to one machine.
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
        assert!(peers.open().of.is_empty() && peers.open().idle.is_empty());
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
