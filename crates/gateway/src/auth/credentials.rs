//! Finds the token in the headers of a request.

use axum::http::{HeaderMap, StatusCode, header};

use crate::http::Problem;

/// The cookie in which a browser keeps the token of a person.
pub(super) const COOKIE: &str = "jobs_token";

/// The bearer token, or else the token in the cookie.
///
/// # Errors
/// When there is no token, or the header `Authorization` holds something else.
pub(super) fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    if let Some(token) = bearer(headers) {
        return Ok(token);
    }
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(unknown_token());
    }
    let missing = "a token is needed: send the header `Authorization: Bearer <token>`";
    cookie(headers).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, missing))
}

pub(super) fn unknown_token() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "this token is not known")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let mut pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE && !value.is_empty()).then_some(value)
    })
}

/// Whether a bearer token may contain a byte (RFC 6750). No such byte has a meaning in a cookie.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let all = headers(&[("cookie", "a=b; jobs_token=secret.1=; c"), ("x", "y")]);
        assert_eq!(cookie(&all), Some("secret.1="));
        assert_eq!(
            cookie(&headers(&[("cookie", "xjobs_token=1; jobs_token=")])),
            None
        );
        assert_eq!(
            bearer(&headers(&[("authorization", "bearer  abc")])),
            Some("abc")
        );
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
    }
}
