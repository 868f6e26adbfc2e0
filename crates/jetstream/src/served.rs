use async_nats::RequestErrorKind;
use bootstrap::Client;
use bytes::Bytes;
use common::{JobKind, subjects};
use std::time::Duration;

/// Whether a consumer serves a kind now: `None` if nobody answered within `patience`. Where nobody
/// serves it, the server says so at once.
///
/// # Errors
/// When the connection is lost or closed.
pub async fn is_served(
    client: &Client,
    kind: &JobKind,
    patience: Duration,
) -> anyhow::Result<Option<bool>> {
    let asking = client.request(subjects::serves_kind(kind), Bytes::new());
    match tokio::time::timeout(patience, asking).await {
        Err(_) => Ok(None),
        Ok(Ok(_)) => Ok(Some(true)),
        Ok(Err(error)) => match error.kind() {
            RequestErrorKind::NoResponders => Ok(Some(false)),
            RequestErrorKind::TimedOut => Ok(None),
            _ => Err(error.into()),
        },
    }
}
