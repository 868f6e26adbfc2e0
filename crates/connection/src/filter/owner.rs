//! Which process is at the other end of a connection on the loopback interface.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{SockaddrIn, getpeername, getsockname};
use tokio::net::TcpStream;

/// The most file descriptors that are looked at.
const MOST: u64 = 1 << 16;

/// Whether this process made a connection that it has accepted: whether one of its sockets is the other
/// end. It asks the system for the addresses of each file descriptor, which POSIX has, so it is the same on
/// every Unix.
///
/// The filter may have authenticated to the server with a certificate, which other users of this machine
/// must not profit from.
pub(super) async fn is_this_process(accepted: &TcpStream) -> bool {
    let (Ok(here), Ok(there)) = (accepted.local_addr(), accepted.peer_addr()) else {
        return false;
    };
    let looked = tokio::task::spawn_blocking(move || has_socket(there, here)).await;
    looked.unwrap_or(false)
}

/// Whether a socket of this process has this address, and is connected to that one.
fn has_socket(address: SocketAddr, peer: SocketAddr) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST, |(soft, _)| soft.min(MOST));
    let limit = RawFd::try_from(limit).unwrap_or(RawFd::MAX);
    let is = |found: nix::Result<SockaddrIn>, wanted: SocketAddr| {
        found.is_ok_and(|found| (found.ip(), found.port()) == (ipv4(wanted), wanted.port()))
    };
    // A file descriptor that is closed meanwhile, or is no socket, is an error.
    (0..limit).any(|fd| is(getsockname(fd), address) && is(getpeername(fd), peer))
}

/// The filter listens on IPv4 only.
fn ipv4(address: SocketAddr) -> std::net::Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_of_this_process_is_its_own_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(is_this_process(&accepted).await);
        drop(client);
        assert!(!is_this_process(&accepted).await);
    }

    #[tokio::test]
    async fn a_connection_of_another_process_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -r line <&3");
        let mut other = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(!is_this_process(&accepted).await);
        // The other process reads the end of the connection, and ends.
        drop(accepted);
        other.wait().unwrap();
    }
}
