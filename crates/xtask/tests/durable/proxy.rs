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

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// What does not pass.
#[derive(Clone, Debug)]
struct Cut {
    /// On the connections whose name ends so.
    name: String,
    /// Both, if it is not said.
    way: Option<Way>,
}

#[derive(Default)]
struct Gate {
    cut: Mutex<Option<Cut>>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, cut: Option<Cut>) {
        *self.cut.lock().unwrap() = cut;
        self.changed.notify_all();
    }

    fn pass(&self, connection: &Connection, way: Way) {
        let cut = self.cut.lock().unwrap();
        let is_cut = |cut: &mut Option<Cut>| {
            cut.as_ref().is_some_and(|cut| {
                let name = connection.name.lock().unwrap();
                name.ends_with(&cut.name) && cut.way.is_none_or(|cut| cut == way)
            })
        };
        let _open = self.changed.wait_while(cut, is_cut).unwrap();
    }
}

/// A connection through the proxy, with the name that its client gave it.
#[derive(Default)]
struct Connection {
    name: Mutex<String>,
}

impl Connection {
    /// Reads the name in what a client sends first.
    fn read_name(&self, sent: &[u8]) {
        let mut name = self.name.lock().unwrap();
        let text = String::from_utf8_lossy(sent);
        if let Some((_, rest)) = text.split_once("\"name\":\"")
            && name.is_empty()
        {
            rest.split('"').next().unwrap().clone_into(&mut name);
        }
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
                let connection = Arc::new(Connection::default());
                pump(&client, &server, &shared, (&connection, Way::ToServer));
                pump(&server, &client, &shared, (&connection, Way::ToClient));
            }
        });
        Self { port, gate }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// From now on nothing passes, in either direction.
    pub(crate) fn cut(&self) {
        let name = String::new();
        self.gate.set(Some(Cut { name, way: None }));
    }

    /// From now on nothing passes this way on the connections whose name ends so.
    pub(crate) fn freeze(&self, name: &str, way: Way) {
        let name = name.to_owned();
        let way = Some(way);
        self.gate.set(Some(Cut { name, way }));
    }

    /// All passes again, also what was sent meanwhile.
    pub(crate) fn mend(&self) {
        self.gate.set(None);
    }
}

fn pump(
    from: &TcpStream,
    to: &TcpStream,
    gate: &Arc<Gate>,
    (connection, way): (&Arc<Connection>, Way),
) {
    let mut from = from.try_clone().unwrap();
    let mut to = to.try_clone().unwrap();
    let (gate, connection) = (Arc::clone(gate), Arc::clone(connection));
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if way == Way::ToServer {
                connection.read_name(&buffer[..length]);
            }
            gate.pass(&connection, way);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        gate.pass(&connection, way);
        // One end is gone, and so is the other.
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
}
