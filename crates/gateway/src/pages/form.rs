//! Forms that browsers send, read within the limits that hold for all bodies.

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::Pages;
use super::problem::Problem;

/// The largest form without a payload, in bytes.
const SMALL: usize = 4 << 10;

/// The largest form with a payload: one of 1 MiB, each byte of it escaped.
pub(crate) const LARGE: usize = 4 << 20;

/// A form of at most so many bytes.
pub(crate) struct Form<T, const MOST: usize = SMALL>(pub(crate) T);

impl<T: DeserializeOwned, const MOST: usize> FromRequest<Pages> for Form<T, MOST> {
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
                "This is not what a form of ours sends.",
            ));
        }
        let held = pages.app.limits.read(&parts.headers, body, MOST).await?;
        let form = serde_urlencoded::from_bytes(&held.bytes);
        let form =
            form.map_err(|error| Problem::wrong(format!("The form cannot be read: {error}.")))?;
        Ok(Self(form))
    }
}
