//! The protocol of NATS itself, without a client that would hide or delay what the server says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::json;
use test_support::{DEADLINE, NatsServer};

/// Who logs in.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    /// One of the users of `deploy/nats.conf`, with its password on this server.
    pub(crate) fn of(server: &NatsServer, user: &str) -> Self {
        let env = server.env_for(user);
        let password = env.into_iter().find(|(name, _)| name == "NATS_PASSWORD");
        Self {
            user: user.to_owned(),
            password: password.expect("each user has a password").1,
        }
    }
}

/// A connection on which the server answers each command, and so tells what it does not permit.
pub(crate) struct RawClient {
    connection: BufReader<TcpStream>,
}

impl RawClient {
    /// Connects, with a name and a password or without.
    ///
    /// The error is the reason that the server gives for refusing.
    pub(crate) fn log_in(server: &NatsServer, login: Option<&Login>) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = Self {
            connection: BufReader::new(stream),
        };
        let mut options = json!({"verbose": true, "pedantic": false, "headers": true});
        if let Some(login) = login {
            options["user"] = json!(login.user);
            options["pass"] = json!(login.password);
        }
        // Nothing is sent behind it: a server that refuses closes the connection, and what it had
        // not read by then would take its reason away with it.
        let mut complaints = client.say(&format!("CONNECT {options}\r\n"), "+OK");
        match complaints.pop() {
            Some(complaint) => Err(complaint),
            None => Ok(client),
        }
    }

    /// What the server complains of after these commands.
    pub(crate) fn complaints(&mut self, commands: &str) -> Vec<String> {
        // It takes commands in order, so the answer to the last one is the end.
        self.say(&format!("{commands}PING\r\n"), "PONG")
    }

    fn say(&mut self, commands: &str, end: &str) -> Vec<String> {
        let stream = self.connection.get_mut();
        stream.write_all(commands.as_bytes()).unwrap();
        let mut complaints = Vec::new();
        let mut line = String::new();
        while self.connection.read_line(&mut line).unwrap() > 0 && line.trim_end() != end {
            if let Some(complaint) = line.strip_prefix("-ERR ") {
                complaints.push(complaint.trim().trim_matches('\'').to_owned());
            }
            line.clear();
        }
        complaints
    }
}
