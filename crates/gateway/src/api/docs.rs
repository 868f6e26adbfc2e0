//! The page that describes the API, made from the `OpenAPI` document.

use askama::Template;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::openapi::DOCUMENT;
use crate::pages::{Layout, html};

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs {
    layout: Layout,
    about: &'static str,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
}

/// Operations that belong together.
struct Group {
    name: &'static str,
    about: &'static str,
    operations: Vec<Operation>,
}

struct Operation {
    method: String,
    path: &'static str,
    summary: &'static str,
    about: &'static str,
    parameters: Vec<Parameter>,
    takes: Vec<Body>,
    answers: Vec<Answer>,
}

struct Parameter {
    name: &'static str,
    place: &'static str,
    required: bool,
    about: &'static str,
}

struct Body {
    media: &'static str,
    /// The name of the schema, if it has one.
    schema: Option<&'static str>,
}

struct Answer {
    status: &'static str,
    about: &'static str,
    body: Vec<Body>,
}

struct Schema {
    name: &'static str,
    json: String,
}

/// `GET /docs`. It contains no secret, so no token is needed.
pub(crate) async fn docs() -> Response {
    let document: &'static Value = &DOCUMENT;
    let page = Docs {
        layout: Layout::bare("HTTP API"),
        about: text(&document["info"]["description"]),
        groups: array(&document["tags"])
            .map(|tag| group(document, tag))
            .collect(),
        schemas: entries(&document["components"]["schemas"])
            .map(|(name, schema)| Schema {
                name,
                json: format!("{schema:#}"),
            })
            .collect(),
    };
    match html(&page) {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

fn text(value: &'static Value) -> &'static str {
    value.as_str().unwrap_or_default()
}

fn array(value: &'static Value) -> impl Iterator<Item = &'static Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &'static Value) -> impl Iterator<Item = (&'static str, &'static Value)> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(name, value)| (name.as_str(), value))
}

fn group(document: &'static Value, tag: &'static Value) -> Group {
    let paths = entries(&document["paths"]);
    let all = paths.flat_map(|(path, methods)| {
        entries(methods).map(move |(method, operation)| (path, method, operation))
    });
    let ours =
        all.filter(|(_, _, operation)| array(&operation["tags"]).any(|of| *of == tag["name"]));
    Group {
        name: text(&tag["name"]),
        about: text(&tag["description"]),
        operations: ours
            .map(|(path, method, operation)| Operation {
                method: method.to_uppercase(),
                path,
                summary: text(&operation["summary"]),
                about: text(&operation["description"]),
                parameters: array(&operation["parameters"]).map(parameter).collect(),
                takes: bodies(&operation["requestBody"]),
                answers: entries(&operation["responses"])
                    .map(|(status, response)| Answer {
                        status,
                        about: text(&response["description"]),
                        body: bodies(response),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn parameter(parameter: &'static Value) -> Parameter {
    Parameter {
        name: text(&parameter["name"]),
        place: text(&parameter["in"]),
        required: parameter["required"] == true,
        about: text(&parameter["description"]),
    }
}

fn bodies(holder: &'static Value) -> Vec<Body> {
    let content = entries(&holder["content"]);
    let body = content.map(|(media, content)| Body {
        media,
        schema: text(&content["schema"]["$ref"])
            .rsplit('/')
            .next()
            .filter(|name| !name.is_empty()),
    });
    body.collect()
}
