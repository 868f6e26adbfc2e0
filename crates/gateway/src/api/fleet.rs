//! `GET /v1/fleet`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use common::FleetRequest;
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::Params;
use super::schema;
use crate::app::App;
use crate::auth::Reader;
use crate::http::Problem;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FleetQuery {
    /// Only consumers after this name: `next` of the page before.
    after: Option<String>,
    /// The most consumers on the page: 200 if absent, at most 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Only consumers whose name or host contains this.
    search: Option<String>,
}

/// Show the fleet
///
/// The consumers and their totals, as a status service knows them.
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
    let fleet = app.fleet(&request).await?;
    Ok(Json(&*fleet).into_response())
}
