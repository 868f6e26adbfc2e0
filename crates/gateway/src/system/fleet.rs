//! The fleet, as a status service knows it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use bootstrap::Client;
use common::{Fleet, FleetRequest, subjects};

use super::cached::Cached;
use crate::http::Problem;

/// How long a status service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// For how long the first page serves all callers.
const FRESH: Duration = Duration::from_millis(500);

/// The fleet, or why it is not known.
type Answer = Result<Arc<Fleet>, Problem>;

/// The first page of the fleet, as a status service last sent it.
pub(crate) struct FleetCache(Cached<Answer>);

impl Default for FleetCache {
    fn default() -> Self {
        Self(Cached::new(FRESH))
    }
}

impl FleetCache {
    /// The part of the fleet that a request asks for. Only the first page is cached.
    ///
    /// # Errors
    /// When no status service answers, or it refuses the request.
    pub(crate) async fn get(&self, client: &Client, request: &FleetRequest) -> Answer {
        if *request != FleetRequest::default() {
            return ask(client, request).await;
        }
        self.0.get_or_ask(async || ask(client, request).await).await
    }
}

async fn ask(client: &Client, request: &FleetRequest) -> Answer {
    let body = serde_json::to_vec(request).map_err(|error| Problem::away(error.to_string()))?;
    let request = Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let asking = client.send_request(subjects::FLEET, request);
    let answer = asking.await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => Problem::away("no status service is there"),
        RequestErrorKind::TimedOut => Problem::away("the status service does not answer"),
        _ => Problem::away(format!("the status service cannot be asked: {error}")),
    })?;
    if let Some(error) = answer
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Service-Error"))
    {
        let code = answer.headers.as_ref();
        let code = code.and_then(|headers| headers.get("Nats-Service-Error-Code"));
        let text = format!("the status service refuses the request: {error}");
        return Err(match code.map(async_nats::HeaderValue::as_str) {
            Some("400") => Problem::bad("after", text),
            _ => Problem::away(text),
        });
    }
    serde_json::from_slice(&answer.payload)
        .map(Arc::new)
        .map_err(|error| {
            Problem::away(format!(
                "the answer of the status service cannot be read: {error}"
            ))
        })
}
