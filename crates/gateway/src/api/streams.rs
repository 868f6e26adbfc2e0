//! `GET /v1/streams`.

use axum::Json;
use axum::extract::State;
use common::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::age::age_ms;
use super::schema;
use crate::app::App;
use crate::auth::Reader;
use crate::http::Problem;

/// The streams of durable jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Streams {
    /// The streams.
    streams: Vec<Stream>,
}

/// How full a stream is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stream {
    /// The name of the stream.
    name: &'static str,
    /// How many messages it holds.
    messages: u64,
    /// How many bytes its messages use.
    bytes: u64,
    /// How many bytes its messages may use; absent if only the account limits them.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_bytes: Option<u64>,
    /// When its oldest message was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    oldest: Option<Timestamp>,
    /// The age of its oldest message, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_ms: Option<u64>,
}

/// List the streams
///
/// How many messages and bytes each holds.
#[utoipa::path(
    get,
    path = "/v1/streams",
    operation_id = "list_streams",
    tag = "system",
    responses(
        (status = 200, description = "The streams", body = Streams),
        (status = 503, description = "NATS is away, or there are no streams yet", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn streams(
    State(app): State<App>,
    _reader: Reader,
) -> Result<Json<Streams>, Problem> {
    app.check_nats()?;
    let depths = client::streams(&app.nats.client).await?.ok_or_else(|| {
        let text = "there are no streams for durable jobs: a consumer creates them when it starts, on a server with JetStream";
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
