use async_nats::HeaderMap;
use bytes::Bytes;
use common::{JobMessage, Timestamp};

/// A message as it is stored in a stream.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored, by the clock of the NATS server.
    pub at: Timestamp,
    /// Its headers, and those that the server adds to an answer.
    pub headers: HeaderMap,
    /// Its body; empty after [`StoredMessage::without_payload`].
    pub payload: Bytes,
    /// The size of the body in bytes, also after [`StoredMessage::without_payload`].
    pub size: usize,
    /// The `run_at` of the job in the body, kept by [`StoredMessage::without_payload`].
    run_at: Option<Timestamp>,
}

impl StoredMessage {
    /// Reads a message with the headers that a direct get adds; `None` without them.
    pub(crate) fn read(headers: HeaderMap, payload: Bytes) -> Option<Self> {
        // The server adds its own headers behind those of the message.
        let text = |name: &str| {
            headers
                .get_last(name)
                .map(|value| value.as_str().to_owned())
        };
        Some(Self {
            subject: text("Nats-Subject")?,
            sequence: text("Nats-Sequence")?.parse().ok()?,
            at: text("Nats-Time-Stamp")?.parse().ok()?,
            size: payload.len(),
            run_at: None,
            payload,
            headers,
        })
    }

    /// Drops the body, which may be large, but keeps its size and `run_at` for lists.
    #[must_use]
    pub fn without_payload(mut self) -> Self {
        self.run_at = self.run_at();
        self.payload = Bytes::new();
        self
    }

    /// How many messages that match the request come after this one; `u64::MAX` if the server does
    /// not say so.
    #[must_use]
    pub fn pending_after(&self) -> u64 {
        let pending = self.headers.get_last("Nats-Num-Pending");
        pending
            .and_then(|pending| pending.as_str().parse().ok())
            .unwrap_or(u64::MAX)
    }

    /// The `run_at` of the job in the body.
    #[must_use]
    pub fn run_at(&self) -> Option<Timestamp> {
        self.run_at
            .or_else(|| JobMessage::decode(&self.payload).ok()?.run_at)
    }
}
