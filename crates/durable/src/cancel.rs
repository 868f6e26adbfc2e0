use async_nats::HeaderMap;
use bootstrap::Client;
use bytes::Bytes;
use common::{JobId, subjects};

use crate::topology::Stream;
use crate::writer::{self, Message, NotStored};

/// How long the request is kept: far longer than any consumer needs to carry it out.
const KEPT: &str = "24h";

/// Asks that a job be cancelled, whatever state it is in. When this returns, the request is stored;
/// a consumer carries it out, at once if there is one, else when one starts.
///
/// # Errors
/// When the server does not take it, or does not say in time.
pub async fn cancel(client: &Client, id: JobId) -> Result<(), NotStored> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", KEPT);
    let message = Message {
        subject: subjects::cancel(id),
        headers,
        payload: Bytes::new(),
    };
    match writer::store(client, vec![message]).await {
        Err(NotStored::NoStream) => Err(NotStored::Refused(format!(
            "there is no stream {}: a consumer makes it when it starts",
            Stream::State
        ))),
        stored => stored.map(|_| ()),
    }
}
