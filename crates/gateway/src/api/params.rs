use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use common::{JobId, JobKind, ScheduleName};
use serde::Deserialize as _;
use serde::de::{DeserializeOwned, Deserializer, Error as _};

use crate::http::Problem;

/// The most entries on a page.
const MAX_LIMIT: usize = 200;

/// How many entries a page has if the request does not say.
const DEFAULT_LIMIT: usize = 50;

/// The query of a request. An unknown or wrong parameter is refused by its name.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(wrong(&error.body_text())),
        }
    }
}

fn wrong(text: &str) -> Problem {
    let text = text
        .strip_prefix("Failed to deserialize query string: ")
        .unwrap_or(text);
    let named = text.split_once(": ").map(|(name, _)| name);
    let quoted = text.split('`').nth(1);
    let is_name = |name: &&str| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match named.filter(is_name).or(quoted) {
        Some(field) => Problem::bad(field, format!("the query is wrong: {text}")),
        None => Problem::bad("query", format!("the query is wrong: {text}")),
    }
}

/// The id of a job in the path.
pub(crate) struct Id(pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad("id", "the path is not text"))?;
        let id = text.trim().parse();
        id.map(Self)
            .map_err(|error| Problem::bad("id", format!("not the id of a job: {error}")))
    }
}

/// The kind in the path.
pub(crate) struct Kind(pub(crate) JobKind);

impl<S: Send + Sync> FromRequestParts<S> for Kind {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad("kind", "the path is not text"))?;
        let kind = text.parse();
        kind.map(Self)
            .map_err(|error| Problem::bad("kind", format!("not a kind: {error}")))
    }
}

/// The name of a schedule in the path.
pub(crate) struct Name(pub(crate) ScheduleName);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad("name", "the path is not text"))?;
        let name = text.parse::<ScheduleName>();
        name.map(Self)
            .map_err(|error| Problem::bad("name", error.to_string()))
    }
}

/// Reads a parameter that is a text with a parser of its own.
pub(super) fn parsed<'de, D, T>(parameter: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(parameter)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

/// How many entries a page has.
///
/// # Errors
/// When the parameter `limit` is out of range.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::bad("limit", "1 to 200"))
    }
}

/// Reads the parameter `cursor`.
///
/// # Errors
/// When it is no cursor.
pub(super) fn cursor<T: std::str::FromStr<Err = client::BadCursor>>(
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    text.map(str::parse)
        .transpose()
        .map_err(|error: client::BadCursor| Problem::bad("cursor", error.to_string()))
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;
    use common::KindPattern;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "the test only parses it")]
    struct Example {
        limit: Option<u32>,
        #[serde(default, deserialize_with = "parsed")]
        kind: Option<KindPattern>,
    }

    #[test]
    fn the_parameter_that_is_wrong_is_named() {
        for (query, field) in [
            ("limit=many", "limit"),
            ("limt=1", "limt"),
            ("kind=a*", "kind"),
        ] {
            let uri: Uri = format!("/v1/jobs?{query}").parse().unwrap();
            let error = Query::<Example>::try_from_uri(&uri).unwrap_err();
            let problem = wrong(&error.body_text());
            assert_eq!(problem.field.as_deref(), Some(field), "{}", problem.detail);
        }
    }
}
