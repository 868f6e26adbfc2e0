//! Which server a library client connects to, and whether through the filter.

use std::time::Duration;

use async_nats::{ReconnectToServer, Server, ServerAddr};
use tracing::debug;

use crate::filter::{Filter, Offer};

/// The server that a library client connects to first.
pub(crate) struct FirstServer {
    pub(crate) address: ServerAddr,
    /// Whether to connect through the filter.
    pub(crate) filtered: bool,
}

impl FirstServer {
    pub(crate) async fn choose(self, filter: &Filter) -> ReconnectToServer {
        let mut addr = self.address;
        if self.filtered {
            if let Err(error) = filter.offer(&addr, true).await {
                debug!(%error, "a server cannot be reached");
            }
            // If the filter is not in place, nothing listens there and the attempt fails.
            addr = filter.address.clone();
        }
        ReconnectToServer {
            addr,
            delay: Some(Duration::ZERO),
        }
    }
}

/// Chooses the server for a reconnect: one with the fewest failed attempts, through the filter if the
/// client was connected to that server before and the server has not restarted since.
pub(crate) async fn choose_again(filter: &Filter, servers: &[Server]) -> Option<ReconnectToServer> {
    let servers: Vec<_> = servers
        .iter()
        .filter(|server| server.addr != filter.address)
        .collect();
    let fewest = servers.iter().map(|server| server.failed_attempts).min()?;
    let best: Vec<_> = servers
        .into_iter()
        .filter(|server| server.failed_attempts == fewest)
        .collect();
    let server = best.get(random(best.len()))?;
    match filter.offer(&server.addr, false).await {
        Ok(Offer::Made) => Some(ReconnectToServer {
            addr: filter.address.clone(),
            delay: Some(Duration::ZERO),
        }),
        offered => {
            if let Err(error) = offered {
                debug!(%error, "a server cannot be reached");
            }
            Some(ReconnectToServer {
                addr: server.addr.clone(),
                delay: None,
            })
        }
    }
}

/// A random number below `below`, so that clients spread over the servers.
fn random(below: usize) -> usize {
    let random = uuid::Uuid::new_v4().as_u128() % (below.max(1) as u128);
    usize::try_from(random).unwrap_or(0)
}

pub(crate) fn shuffled(mut addresses: Vec<ServerAddr>) -> Vec<ServerAddr> {
    for last in (1..addresses.len()).rev() {
        addresses.swap(last, random(last + 1));
    }
    addresses
}
