use axum::http::{HeaderMap, header};

use crate::auth::Access;

/// What a command line needs that submits a job: a person copies it into a terminal.
pub(crate) struct SubmitExample {
    /// The address of the gateway, without a path.
    pub(crate) url: String,
    pub(crate) needs_token: bool,
}

impl SubmitExample {
    pub(crate) fn new(access: &Access, headers: &HeaderMap) -> Self {
        let scheme = if access.uses_tls() { "https" } else { "http" };
        Self {
            url: format!("{scheme}://{}", host(headers)),
            needs_token: access.needs_token(),
        }
    }
}

/// The host under which the browser has reached the gateway; a placeholder if the header is unusual. No
/// page can make a browser send another host.
fn host(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let plain = |host: &&str| {
        !host.is_empty()
            && host.len() < 256
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    host.filter(plain).unwrap_or("127.0.0.1:8080").to_owned()
}
