use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use bytes::Bytes;

/// See [`Nats::round_trip`](super::Nats::round_trip).
pub(crate) async fn round_trip(
    client: &async_nats::Client,
    patience: Duration,
) -> anyhow::Result<()> {
    // A new inbox has no responders, and the server says so at once.
    let request = Request::new().payload(Bytes::new()).timeout(None);
    let answer = client.send_request(client.new_inbox(), request);
    match tokio::time::timeout(patience, answer).await {
        Ok(Err(error)) if error.kind() != RequestErrorKind::NoResponders => Err(error.into()),
        Ok(_) => Ok(()),
        Err(_) => anyhow::bail!("the server did not answer within {patience:?}"),
    }
}
