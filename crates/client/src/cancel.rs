use async_nats::HeaderMap;
use bytes::Bytes;
use common::{JobId, subjects};
use connection::NatsClient;
use jetstream::{Message, NotStored, Stream, batch, headers};

/// How long a request to cancel is kept: far longer than a consumer needs to carry it out.
const KEPT: &str = "24h";

/// Requests to cancel a job, whatever its state. When this returns, the request is stored. A consumer
/// carries it out: at once if a consumer runs, otherwise when one starts.
///
/// # Errors
/// When the server refuses it, or does not answer in time.
pub async fn cancel(client: &NatsClient, id: JobId) -> Result<(), NotStored> {
    let mut headers = HeaderMap::new();
    headers.insert(headers::TTL, KEPT);
    let message = Message {
        subject: subjects::cancel(id),
        headers,
        payload: Bytes::new(),
    };
    match batch::store(client, vec![message]).await {
        Err(NotStored::NoStream) => Err(NotStored::Refused(format!(
            "there is no stream {}: a consumer creates it when it starts",
            Stream::State
        ))),
        stored => stored.map(|_| ()),
    }
}
