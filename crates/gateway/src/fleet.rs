//! The fleet, as a status service knows it.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use common::{Fleet, FleetRequest, subjects};
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::problem::Problem;

/// How long a status service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// For so long the last answer is good enough.
const FRESH: Duration = Duration::from_millis(500);

/// The first page of the fleet as it was told last: however many look, few ask.
#[derive(Default)]
pub(crate) struct FleetCache(Mutex<Option<(Instant, Told)>>);

/// What a status service told, or why none did.
type Told = Result<Arc<Fleet>, Problem>;

/// The fleet, as much of it as is asked for.
///
/// # Errors
/// When no status service answers.
pub(crate) async fn fleet(app: &App, request: &FleetRequest) -> Told {
    app.check_nats()?;
    if *request != FleetRequest::default() {
        return ask(app, request).await.map(Arc::new);
    }
    // Whoever comes while one asks waits for the same answer.
    let mut last = app.fleet.0.lock().await;
    if let Some((at, told)) = &*last
        && at.elapsed() < FRESH
    {
        return told.clone();
    }
    // That nobody answers is kept, too, or those who wait here would find that out one by one.
    let told = ask(app, request).await.map(Arc::new);
    *last = Some((Instant::now(), told.clone()));
    told
}

async fn ask(app: &App, request: &FleetRequest) -> Result<Fleet, Problem> {
    let body = serde_json::to_vec(request).map_err(|error| Problem::away(error.to_string()))?;
    let request = Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let asking = app.nats.client.send_request(subjects::FLEET, request);
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
        let text = format!("the status service refuses: {error}");
        return Err(match code.map(async_nats::HeaderValue::as_str) {
            Some("400") => Problem::bad("after", text),
            _ => Problem::away(text),
        });
    }
    serde_json::from_slice(&answer.payload)
        .map_err(|error| Problem::away(format!("the status service's answer is none: {error}")))
}
