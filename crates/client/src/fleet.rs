//! Asks a status service for the consumers and their totals.

use std::time::Duration;

use async_nats::{HeaderValue, Request, RequestErrorKind};
use common::{Fleet, FleetRequest, subjects};
use connection::NatsClient;

/// How long a status service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the fleet is not known.
///
/// ```no_run
/// use client::{Client, FleetError};
///
/// # async fn example(jobs: Client) -> Result<(), FleetError> {
/// match jobs.fleet(&common::FleetRequest::default()).await {
///     Ok(fleet) => println!("{} consumers", fleet.answering),
///     Err(FleetError::NoStatusService) => println!("start a status service"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// No status service runs.
    #[error(
        "no status service is there: {} has no responders; start a status service",
        subjects::FLEET
    )]
    NoStatusService,
    /// A status service did not answer in time.
    #[error(
        "no answer on {} within {PATIENCE:?}: check the status service, and that this user may \
         publish there",
        subjects::FLEET
    )]
    NoAnswer,
    /// The status service refuses the request.
    #[error("the status service refuses the request on {}: {why}", subjects::FLEET)]
    Refused {
        /// Whether the request is at fault.
        is_bad_request: bool,
        /// The reason that it gives.
        why: String,
    },
    /// The request could not be sent, or the answer cannot be read.
    #[error("the request on {subject} failed: {0}", subject = subjects::FLEET)]
    Failed(String),
}

/// Requests a part of the fleet from a status service.
///
/// # Errors
/// See [`FleetError`].
pub async fn fleet(client: &NatsClient, request: &FleetRequest) -> Result<Fleet, FleetError> {
    let failed = |error: &dyn std::fmt::Display| FleetError::Failed(error.to_string());
    let body = serde_json::to_vec(request).map_err(|error| failed(&error))?;
    let request = Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(subjects::FLEET, request).await;
    let answer = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => FleetError::NoStatusService,
        RequestErrorKind::TimedOut => FleetError::NoAnswer,
        _ => failed(&error),
    })?;
    let header = |name: &str| answer.headers.as_ref()?.get(name).map(HeaderValue::as_str);
    if let Some(why) = header("Nats-Service-Error") {
        return Err(FleetError::Refused {
            is_bad_request: header("Nats-Service-Error-Code") == Some("400"),
            why: why.to_owned(),
        });
    }
    serde_json::from_slice(&answer.payload).map_err(|error| failed(&error))
}
