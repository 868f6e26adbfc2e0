//! The `OpenAPI` document that describes the API, made from the code.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::hand_over::{Accepted, Ended};
use super::many::Many;
use super::{
    dead_letter_groups, dead_letters, dead_letters_bulk, events, fleet, jobs, jobs_bulk, kinds,
    queues, schedules, schema, streams, submit,
};
use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Jobs",
        description = "Submit jobs, follow them, and operate the system. Send `Authorization: Bearer <token>` with every \
            request. A gateway without a token file needs no token; it serves only its own machine unless --allow-anyone is \
            given.",
        license(name = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Jobs. Scopes: submit to submit, read to look up and follow, operate to cancel and to run now."),
        (name = "dead letters", description = "Jobs that were given up. Scopes: read to look up, operate to replay and discard."),
        (name = "schedules", description = "Jobs that are submitted again and again. Scopes: read to look up, operate to change and run."),
        (name = "system", description = "The consumers, the streams, the queues and the kinds. Scopes: read to look up, operate to change the setting of a kind."),
    ),
    components(schemas(Accepted, Ended, Many, schedules::Preview, schema::Job, schema::Outcome)),
    security(("token" = [])),
)]
struct Api;

/// The routes of the API, with their descriptions.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(submit::submit, jobs::list))
        .routes(routes!(jobs::show, jobs::cancel))
        .routes(routes!(jobs::why))
        .routes(routes!(jobs::run_now))
        .routes(routes!(jobs_bulk::cancel))
        .routes(routes!(jobs_bulk::run_now))
        .routes(routes!(events::events))
        .routes(routes!(dead_letters::list, dead_letters_bulk::discard))
        .routes(routes!(dead_letter_groups::groups))
        .routes(routes!(dead_letters_bulk::replay))
        .routes(routes!(dead_letters::show, dead_letters::discard))
        .routes(routes!(dead_letters::raw))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(fleet::fleet))
        .routes(routes!(streams::streams))
        .routes(routes!(queues::queues))
        .routes(routes!(kinds::list))
        .routes(routes!(kinds::heed_priorities))
        .routes(routes!(kinds::pause))
        .routes(routes!(kinds::resume))
        .routes(routes!(kinds::pause_all))
        .routes(routes!(kinds::resume_all))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::show, schedules::put, schedules::delete))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
}

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let (_, api) = routes().split_for_parts();
    // A document of texts and numbers can always be written as JSON.
    let mut document = serde_json::to_value(api).unwrap_or_default();
    document["components"]["securitySchemes"] =
        json!({"token": {"type": "http", "scheme": "bearer"}});
    describe_refusals(&mut document);
    let paths = &mut document["paths"];
    // The body may be absent, but not `null`.
    for path in [
        "/v1/dead-letters/{id}/replay",
        "/v1/kinds/{kind}/pause",
        "/v1/kinds/=all/pause",
    ] {
        paths[path]["post"]["requestBody"]["required"] = false.into();
    }
    let events = &mut paths["/v1/jobs/{id}/events"]["get"]["responses"]["200"];
    events["content"]["text/event-stream"]["schema"] = schema::reference("RecordEvents");
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.extend(schema::definitions());
        schemas.extend(schema::events().map(|(name, schema)| (name.to_owned(), schema)));
    }
    document
});

/// The document of a gateway with tokens, and of one without.
static TEXTS: LazyLock<[Bytes; 2]> = LazyLock::new(|| {
    let mut without = DOCUMENT.clone();
    // An empty requirement makes the other one optional.
    without["security"] = json!([{}, {"token": []}]);
    [&*DOCUMENT, &without].map(|document| document.to_string().into())
});

/// Adds the refusals that any route may answer with. A route's own description of a status stays.
fn describe_refusals(document: &mut Value) {
    let refusals = [
        ("401", "No token, or an unknown one"),
        (
            "403",
            "The token lacks the scope, or the request comes from another site",
        ),
        (
            "421",
            "Without tokens: the gateway does not serve this host name",
        ),
        ("429", "A limit is reached, and `detail` says which"),
        ("503", "NATS is away"),
    ];
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    let content = json!({"application/problem+json": {"schema": schema}});
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten());
    for (_, operation) in operations {
        let Some(responses) = operation["responses"].as_object_mut() else {
            continue;
        };
        for (status, description) in refusals {
            let response = json!({"description": description, "content": content});
            responses.entry(status).or_insert(response);
        }
    }
}

/// `GET /openapi.json`. It contains no secret, so no token is needed.
pub(crate) async fn document(State(app): State<App>) -> Response {
    let [with, without] = &*TEXTS;
    let text = if app.access.needs_token() {
        with
    } else {
        without
    };
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], text.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::MAX_RATE;

    #[test]
    fn the_highest_rate_is_the_one_that_is_accepted() {
        for (path, method) in [
            ("/v1/dead-letters", "delete"),
            ("/v1/dead-letters/replay", "post"),
        ] {
            let parameters = &DOCUMENT["paths"][path][method]["parameters"];
            let mut parameters = parameters.as_array().unwrap().iter();
            let rate = parameters.find(|it| it["name"] == "rate").unwrap();
            assert_eq!(rate["schema"]["maximum"], MAX_RATE, "{rate}");
        }
    }

    #[test]
    fn whoever_is_too_late_for_a_dead_letter_is_told_so() {
        for (path, method) in [
            ("/v1/dead-letters/{id}", "delete"),
            ("/v1/dead-letters/{id}/replay", "post"),
        ] {
            let responses = &DOCUMENT["paths"][path][method]["responses"];
            assert!(responses["409"].is_object(), "{method} {path}");
        }
    }
}
