//! The fleet, the streams and the queues.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use common::{FleetRequest, JobKind, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Params;
use super::schema;
use crate::access::Reader;
use crate::app::App;
use crate::fleet::fleet as ask_fleet;
use crate::problem::Problem;

/// The most queues in an answer.
const QUEUES: usize = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FleetQuery {
    /// Consumers after this one: `next` of the answer before.
    after: Option<String>,
    /// The most consumers in the answer: 200 if absent, at most 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Only consumers whose name or host contains this.
    search: Option<String>,
}

/// Consumers and totals
///
/// As the status service knows them.
#[utoipa::path(
    get,
    path = "/v1/fleet",
    operation_id = "show_fleet",
    tag = "system",
    params(FleetQuery),
    responses(
        (status = 200, description = "The fleet, and a page of its consumers", body = schema::Fleet),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "NATS is away, or no status service is there", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn fleet(
    State(app): State<App>,
    _reader: Reader,
    Params(query): Params<FleetQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit;
    if limit.is_some_and(|limit| !(1..=500).contains(&limit)) {
        return Err(Problem::bad("limit", "1 to 500"));
    }
    let request = FleetRequest {
        after: query.after,
        limit,
        search: query.search,
    };
    let fleet: Arc<common::Fleet> = ask_fleet(&app, &request).await?;
    Ok(Json(&*fleet).into_response())
}

/// The streams of the durable lane.
#[derive(Serialize, ToSchema)]
pub(crate) struct Streams {
    /// Each of them.
    streams: Vec<Stream>,
}

/// How full a stream is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stream {
    /// Its name.
    name: &'static str,
    /// How many messages it holds.
    messages: u64,
    /// How many bytes they take.
    bytes: u64,
    /// How many they may take; absent if only the account bounds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_bytes: Option<u64>,
    /// When its oldest message was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    oldest: Option<Timestamp>,
    /// How old that is, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_ms: Option<u64>,
}

/// How full the streams are
#[utoipa::path(
    get,
    path = "/v1/streams",
    operation_id = "list_streams",
    tag = "system",
    responses(
        (status = 200, description = "The streams", body = Streams),
        (status = 503, description = "NATS is away, or has no durable lane", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn streams(
    State(app): State<App>,
    _reader: Reader,
) -> Result<Json<Streams>, Problem> {
    app.check_nats()?;
    let depths = client::streams(&app.nats.client).await?.ok_or_else(|| {
        let text = "there is no durable lane: a consumer makes it when it starts, on a server with JetStream";
        Problem::away(text)
    })?;
    let of = |depth: client::StreamDepth| Stream {
        name: depth.stream.name(),
        messages: depth.messages,
        bytes: depth.bytes,
        limit_bytes: depth.limit_bytes,
        oldest: depth.oldest,
        oldest_age_ms: depth.oldest.map(age_ms),
    };
    Ok(Json(Streams {
        streams: depths.into_iter().map(of).collect(),
    }))
}

fn age_ms(at: Timestamp) -> u64 {
    u64::try_from(Timestamp::now().since(at).as_millis()).unwrap_or(u64::MAX)
}

/// The queues of the durable lane.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queues {
    /// One for each kind, those with the most jobs first, at most 1,000.
    queues: Vec<Queue>,
    /// How many jobs wait for a consumer, of all kinds. Where more than 10,000 do, jobs that ended
    /// in the last seconds are counted as well: so it may be too large, but not too small.
    waiting: u64,
}

/// The jobs of a kind that wait or run.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queue {
    /// The kind.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// How many wait for a consumer.
    waiting: u64,
    /// Whether there may be more of them: no consumer has ever served the kind, and of more than
    /// 10,000 jobs only the oldest were looked at. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_least: bool,
    /// Whether a consumer serves the kind now; absent if that was not looked up. It is looked up
    /// for the first 50 kinds of which jobs wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    served: Option<bool>,
    /// How many consumers have.
    running: u64,
    /// How many were delivered more than once.
    redelivered: u64,
    /// Since when the oldest waits, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    oldest: Option<Timestamp>,
    /// How long that is, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_ms: Option<u64>,
}

/// How many jobs wait and run, by kind
///
/// Also of kinds that no consumer has ever served.
#[utoipa::path(
    get,
    path = "/v1/queues",
    operation_id = "list_queues",
    tag = "system",
    responses(
        (status = 200, description = "The queues", body = Queues),
    )
)]
pub(crate) async fn queues(
    State(app): State<App>,
    _reader: Reader,
) -> Result<Json<Queues>, Problem> {
    app.check_nats()?;
    let client::Queues { queues, waiting } = client::queues(&app.nats.client, QUEUES).await?;
    let of = |queue: client::Queue| Queue {
        kind: queue.kind,
        waiting: queue.waiting,
        at_least: queue.at_least,
        served: queue.served,
        running: queue.running,
        redelivered: queue.redelivered,
        oldest: queue.oldest,
        oldest_age_ms: queue.oldest.map(age_ms),
    };
    Ok(Json(Queues {
        queues: queues.into_iter().map(of).collect(),
        waiting,
    }))
}
