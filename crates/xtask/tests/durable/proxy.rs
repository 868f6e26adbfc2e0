//! A way to a server that can be cut: connections stay open, and nothing passes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use test_support::NatsServer;

pub(crate) struct Proxy {
    port: u16,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let closed = self.closed.lock().unwrap();
        let _open = self.changed.wait_while(closed, |closed| *closed).unwrap();
    }
}

impl Proxy {
    /// A way to this server, which ends with the test's process.
    pub(crate) fn to(server: &NatsServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = server.port();
        let gate = Arc::new(Gate::default());
        let shared = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                // The server may be away, and then this client is turned away too.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                pump(&client, &server, &shared);
                pump(&server, &client, &shared);
            }
        });
        Self { port, gate }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// From now on nothing passes, in either direction.
    pub(crate) fn cut(&self) {
        self.gate.set(true);
    }

    /// All passes again, also what was sent meanwhile.
    pub(crate) fn mend(&self) {
        self.gate.set(false);
    }
}

fn pump(from: &TcpStream, to: &TcpStream, gate: &Arc<Gate>) {
    let mut from = from.try_clone().unwrap();
    let mut to = to.try_clone().unwrap();
    let gate = Arc::clone(gate);
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            gate.pass();
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        gate.pass();
        // One end is gone, and so is the other.
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
}
