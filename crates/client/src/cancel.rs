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
    stored(batch::store(client, vec![request(id)]).await)
}

/// The request to cancel a job.
pub(crate) fn request(id: JobId) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(headers::TTL, KEPT);
    Message {
        subject: subjects::cancel(id),
        headers,
        payload: Bytes::new(),
    }
}

/// What became of a request that was to be stored.
pub(crate) fn stored(result: Result<u64, NotStored>) -> Result<(), NotStored> {
    match result {
        Err(NotStored::NoStream) => Err(NotStored::Refused(format!(
            "there is no stream {}: a consumer creates it when it starts",
            Stream::State
        ))),
        stored => stored.map(|_| ()),
    }
}
