//! Which user is at the other end of a connection on the loopback interface.

use std::net::SocketAddr;

/// Whether a process of this user made a connection, by the system's table of connections.
///
/// The filter may have authenticated to the server with a certificate, which other users of this machine
/// must not profit from.
pub(super) async fn is_this_user(peer: SocketAddr) -> bool {
    let read = || std::fs::read_to_string("/proc/net/tcp");
    let table = tokio::task::spawn_blocking(read).await;
    let uid = nix::unistd::geteuid().as_raw();
    matches!(table, Ok(Ok(table)) if owner(&table, peer) == Some(uid))
}

/// The user id of the socket with this local address in `/proc/net/tcp` (see proc(5)); `None` if there
/// is no such socket.
fn owner(table: &str, local: SocketAddr) -> Option<u32> {
    let SocketAddr::V4(local) = local else {
        return None;
    };
    // The table shows the address as a number in the byte order of the machine.
    let address = u32::from_ne_bytes(local.ip().octets());
    let shown = format!("{address:08X}:{:04X}", local.port());
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let found = words.next()? == shown;
        // It is followed by remote address, state, queues, timer and retransmissions.
        let uid = words.nth(5)?.parse().ok()?;
        found.then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_system_tells_whose_a_connection_is() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     7        0 1 1 0 100 0 0 10 0\n\
             \x20  1: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1\n";
        let of = |address: &str| owner(table, address.parse().unwrap());
        assert_eq!(of("127.0.0.1:54321"), Some(1000));
        assert_eq!(of("127.0.0.1:8080"), Some(7));
        assert_eq!(of("127.0.0.2:54321"), None);
        assert_eq!(of("[::1]:54321"), None);
    }

    #[tokio::test]
    async fn a_connection_of_this_process_is_of_this_user() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (_accepted, peer) = listener.accept().await.unwrap();
        assert!(is_this_user(peer).await);
        drop(client);
    }
}
