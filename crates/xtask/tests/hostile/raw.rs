//! A user who writes the protocol of NATS himself, and so can send what no client library would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

/// A message as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct RawMessage {
    pub(crate) subject: String,
    /// The whole block of headers, version line and closing empty line included.
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// A connection of one of the users of `deploy/nats.conf`.
pub(crate) struct RawUser {
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    inbox: String,
    /// What came back, by the last token of the inbox; and what the server complained of.
    heard: Arc<Mutex<Heard>>,
    next: u64,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    answers: HashMap<u64, Vec<u8>>,
    complaints: Vec<String>,
    closed: bool,
}

impl Drop for RawUser {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl RawUser {
    /// Logs in, and listens below the user's own inbox.
    pub(crate) async fn log_in(server: &NatsServer, user: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port()))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let heard = Arc::new(Mutex::new(Heard::default()));
        let reader = tokio::spawn(listen(read, Arc::clone(&write), Arc::clone(&heard)));
        let env: HashMap<_, _> = server.env_for(user).into_iter().collect();
        let options = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "user": user, "pass": env["NATS_PASSWORD"],
        });
        let inbox = format!("_INBOX_{user}.raw{}", common::JobId::generate());
        let user = Self {
            write,
            inbox,
            heard,
            next: 0,
            reader,
        };
        let hello = format!("CONNECT {options}\r\nSUB {}.* 1\r\n", user.inbox);
        user.write(hello.as_bytes()).await;
        user
    }

    /// Sends bytes as they are. What a closed connection does not take is lost.
    pub(crate) async fn write(&self, bytes: &[u8]) {
        let _ = self.write.lock().await.write_all(bytes).await;
    }

    /// Sends a message, whose answer, if there is one, is found under the number that is returned.
    pub(crate) async fn send(&mut self, message: &RawMessage) -> u64 {
        self.next += 1;
        let reply = format!("{}.{}", self.inbox, self.next);
        self.send_to(message, &reply).await;
        self.next
    }

    /// Sends a message with any reply subject.
    pub(crate) async fn send_to(&self, message: &RawMessage, reply: &str) {
        let RawMessage {
            subject,
            headers,
            payload,
        } = message;
        let total = headers.len() + payload.len();
        let mut bytes = if headers.is_empty() {
            format!("PUB {subject} {reply} {total}\r\n").into_bytes()
        } else {
            format!("HPUB {subject} {reply} {} {total}\r\n", headers.len()).into_bytes()
        };
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.write(&bytes).await;
    }

    /// The answer to a message, once it is there; a message that nobody answers has none.
    pub(crate) fn answer(&self, number: u64) -> Option<Vec<u8>> {
        self.heard.lock().unwrap().answers.get(&number).cloned()
    }

    /// Stores a message in a stream; the error is what the server says against it.
    pub(crate) async fn store(&mut self, message: &RawMessage) -> Result<u64, String> {
        let number = self.send(message).await;
        let what = format!("an answer to {message:?}");
        let answer = eventually(DEADLINE, &what, async || self.answer(number)).await;
        stored(&answer)
    }

    /// Waits until the server has read all that was sent.
    pub(crate) async fn settled(&mut self) {
        // It comes back to this user, who listens on its own inbox.
        self.next += 1;
        let own = RawMessage {
            subject: format!("{}.{}", self.inbox, self.next),
            headers: Vec::new(),
            payload: Vec::new(),
        };
        self.send_to(&own, "x").await;
        let number = self.next;
        eventually(DEADLINE, "the server to read on", async || {
            self.answer(number)
                .map(drop)
                .or(self.is_closed().then_some(()))
        })
        .await;
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.heard.lock().unwrap().closed
    }

    /// What the server complained of so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.heard.lock().unwrap().complaints.clone()
    }
}

/// Reads an answer of JetStream to a published message.
pub(crate) fn stored(answer: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(answer);
    let Ok(json) = serde_json::from_slice::<Value>(answer) else {
        return Err(format!("not stored: {text:?}"));
    };
    match (json["seq"].as_u64(), &json["error"]) {
        (Some(_), _) if json["duplicate"] == true => Err("a duplicate".to_owned()),
        (Some(sequence), Value::Null) => Ok(sequence),
        (_, error) => Err(error["description"].as_str().unwrap_or(&text).to_owned()),
    }
}

async fn listen(
    read: OwnedReadHalf,
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    heard: Arc<Mutex<Heard>>,
) {
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        if !matches!(read.read_until(b'\n', &mut line).await, Ok(1..)) {
            break;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let words: Vec<_> = text.split(' ').collect();
        match words[0] {
            "PING" => {
                let _ = write.lock().await.write_all(b"PONG\r\n").await;
            }
            "-ERR" => heard.lock().unwrap().complaints.push(text),
            "MSG" | "HMSG" => {
                let total: usize = words.last().and_then(|word| word.parse().ok()).unwrap();
                let mut body = vec![0; total + 2];
                if read.read_exact(&mut body).await.is_err() {
                    break;
                }
                body.truncate(total);
                let number = words[1]
                    .rsplit('.')
                    .next()
                    .and_then(|token| token.parse().ok());
                if let Some(number) = number {
                    heard.lock().unwrap().answers.insert(number, body);
                }
            }
            _ => {}
        }
    }
    heard.lock().unwrap().closed = true;
}
