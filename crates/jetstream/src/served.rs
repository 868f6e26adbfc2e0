use async_nats::RequestErrorKind;
use bytes::Bytes;
use common::{JobKind, subjects};
use connection::NatsClient;
use std::time::Duration;

/// Whether a consumer serves a kind now; `None` if there was no answer within `patience`. If no
/// consumer serves it, the server reports no responders at once.
///
/// # Errors
/// When the connection is lost or closed.
pub async fn is_served(
    client: &NatsClient,
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
