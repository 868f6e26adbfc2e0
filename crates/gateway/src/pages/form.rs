//! Reads forms, within the limits that hold for all bodies.

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::state::Pages;

/// The largest form without a payload, in bytes.
const SMALL: usize = 4 << 10;

/// The largest form with a payload, in bytes: 1 MiB, with each byte escaped.
pub(crate) const LARGE: usize = 4 << 20;

/// A form of at most `MAX` bytes.
pub(crate) struct Form<T, const MAX: usize = SMALL>(pub(crate) T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<Pages> for Form<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, pages: &Pages) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let is_form = kind.is_some_and(|kind| {
            let kind = kind.as_bytes();
            kind.starts_with(b"application/x-www-form-urlencoded")
        });
        if !is_form {
            return Err(Problem::refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The request is not a form.",
            ));
        }
        let body = pages.app.limits.read(&parts.headers, body, MAX).await?;
        let form = serde_urlencoded::from_bytes(&body.bytes);
        let form =
            form.map_err(|error| Problem::wrong(format!("The form cannot be read: {error}.")))?;
        Ok(Self(form))
    }
}
