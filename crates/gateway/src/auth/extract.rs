//! Extractors: a handler that takes one of them is reached only by whoever has the scope.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::access::Caller;
use super::scopes::Scope;
use crate::app::App;
use crate::http::Problem;

/// A caller with the scope `read`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader;

/// A caller with the scope `submit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender;

/// A caller with the scope `operate`.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    /// The name of the token, for the log.
    pub(crate) name: Arc<str>,
}

/// Who sends a request, if the token has the scope.
fn caller_with(scope: Scope, parts: &Parts, app: &App) -> Result<Caller, Problem> {
    let caller = app.access.caller(&parts.headers)?;
    if caller.scopes.contain(scope) {
        return Ok(caller);
    }
    let text = format!("the token {:?} lacks the scope `{scope}`", caller.name);
    Err(Problem::new(StatusCode::FORBIDDEN, text))
}

impl FromRequestParts<App> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        caller_with(Scope::Read, parts, app).map(|_| Self)
    }
}

impl FromRequestParts<App> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        caller_with(Scope::Submit, parts, app).map(|_| Self)
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Caller { name, .. } = caller_with(Scope::Operate, parts, app)?;
        Ok(Self { name })
    }
}
