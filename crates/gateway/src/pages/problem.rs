//! The page that says why a page cannot be shown.

use std::fmt::Display;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use client::NotStored;
use tracing::error;

use super::layout::Layout;
use crate::http::Problem as Refusal;

/// Why a page cannot be shown.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    title: &'static str,
    /// What is wrong.
    what: String,
    /// What to do; `None` if there is no advice.
    next: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    layout: Layout,
    what: String,
    next: Option<&'static str>,
}

impl Problem {
    /// The address leads to nothing.
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            title: "Not found",
            what: what.into(),
            next: Some(
                "Records of jobs that have ended are kept for a limited time. Core jobs are not \
                 stored.",
            ),
        }
    }

    /// The request is wrong.
    pub(crate) fn wrong(what: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "This cannot be done",
            what: what.into(),
            next: None,
        }
    }

    /// The token lacks the scope.
    pub(crate) fn not_allowed() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            title: "Not allowed",
            what:
                "Your token lacks the scope `operate`, which is needed to cancel, replay, discard and pause."
                    .to_owned(),
            next: None,
        }
    }

    /// A limit is reached.
    pub(crate) fn busy(what: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "Busy",
            what: what.into(),
            next: Some("Try again in a moment."),
        }
    }

    /// The request is refused with this status.
    pub(crate) fn refused(status: StatusCode, what: impl Into<String>) -> Self {
        let title = match status {
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::CONFLICT => "Somebody else was faster",
            StatusCode::PAYLOAD_TOO_LARGE => "Too large",
            StatusCode::REQUEST_TIMEOUT => "Too slow",
            StatusCode::TOO_MANY_REQUESTS => "Busy",
            _ => "This cannot be done",
        };
        Self {
            status,
            title,
            what: what.into(),
            next: (status == StatusCode::TOO_MANY_REQUESTS).then_some("Try again in a moment."),
        }
    }

    /// NATS is away, or does not answer. The connection logs that once; logging it here would repeat it
    /// for each open page.
    pub(crate) fn away(error: impl Into<anyhow::Error>) -> Self {
        Self::unanswered(format!("{:#}", error.into()))
    }

    /// A cancellation, replay, discard or pause has failed.
    pub(crate) fn not_done(error: &anyhow::Error) -> Self {
        let what = format!("{error:#}");
        match error.downcast_ref::<NotStored>() {
            Some(NotStored::Conflict) => Self::refused(StatusCode::CONFLICT, what),
            Some(NotStored::Full(_)) => Self::refused(StatusCode::TOO_MANY_REQUESTS, what),
            Some(NotStored::Refused(_)) => Self {
                status: StatusCode::BAD_GATEWAY,
                title: "NATS refuses this",
                what,
                next: None,
            },
            _ => Self::unanswered(what),
        }
    }

    fn unanswered(what: String) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "NATS does not answer",
            what,
            next: Some(
                "Check that the NATS server runs with JetStream and can be reached, and that a \
                 consumer has started: it creates the streams. Then reload this page.",
            ),
        }
    }

    /// An error that should not happen.
    pub(crate) fn unexpected(error: impl Display) -> Self {
        error!(%error, "a page cannot be rendered");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            title: "This page cannot be shown",
            what: "The log of the gateway says why.".to_owned(),
            next: None,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal.status {
            StatusCode::SERVICE_UNAVAILABLE => Self::unanswered(refusal.detail.into_owned()),
            status => Self::refused(status, refusal.detail),
        }
    }
}

/// Replaces the body of a refusal by a page; the status and the headers stay.
pub(crate) fn instead(refusal: Refusal, answer: Response) -> Response {
    let (mut parts, _) = answer.into_parts();
    let (mut page, body) = Problem::from(refusal).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    if let Some(kind) = page.headers.remove(header::CONTENT_TYPE) {
        parts.headers.insert(header::CONTENT_TYPE, kind);
    }
    Response::from_parts(parts, body)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let page = ProblemPage {
            layout: Layout::bare(self.title),
            what: self.what,
            next: self.next,
        };
        let mut response = match page.render() {
            Ok(html) => (self.status, Html(html)).into_response(),
            Err(_) => self.status.into_response(),
        };
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}
