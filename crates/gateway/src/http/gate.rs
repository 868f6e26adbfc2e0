//! What holds for every request: where it may come from, how many run at a time, and the headers of
//! its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use bootstrap::trace::Span;
use tracing::debug;

use super::problem::Problem;
use crate::app::Front;
use crate::auth::{SIGN_IN, check_origin};
use crate::pages;

/// How long a request may take: longer than the longest wait that a client can ask for.
const LONGEST: Duration = Duration::from_mins(7);

/// A page loads only what this gateway serves, contains no script, and is shown in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The headers that every answer gets.
const ALWAYS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        // With `no-referrer`, browsers send `Origin: null` also with the forms of our own pages, and no
        // button of the dashboard would work.
        HeaderValue::from_static("same-origin"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Checks a request, lets it be answered, and adds the headers that every answer gets.
pub(crate) async fn gate(
    State(front): State<Arc<Front>>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let template = route.as_ref().map_or("other", MatchedPath::as_str);
    let headers = request.headers();
    let mut span = Span::serve(method.as_str(), template, |name| {
        headers.get(name)?.to_str().ok()
    });
    if let Some(context) = span.context() {
        request.extensions_mut().insert(context);
    }
    let navigation = Navigation::of(&request);
    let counted = InFlight::enter(&front);
    let mut response = match checked(&front, &request) {
        Ok(_permit) => {
            let late = || Problem::away("this took too long");
            let answer = tokio::time::timeout(LONGEST, next.run(request)).await;
            answer.unwrap_or_else(|_| late().into_response())
        }
        Err(problem) => problem.into_response(),
    };
    drop(counted);
    if let Some(navigation) = navigation
        && let Some(problem) = response.extensions_mut().remove::<Problem>()
    {
        response = navigation.end(problem, response);
    }
    add_headers(&mut response);
    let took = began.elapsed();
    let status = response.status();
    if span.is_recorded() {
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.failed(status.as_str(), "");
        }
    }
    front.metrics.count(&method, template, status, took);
    debug!(
        %method, route = template, status = status.as_u16(),
        elapsed_ms = took.as_secs_f64() * 1000.0, "answered"
    );
    response
}

/// A request that a person has made by a link or a form: programs do not ask for HTML.
struct Navigation {
    /// The path of the page; `None` after a form, which must not be sent twice.
    page: Option<String>,
}

impl Navigation {
    fn of(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let accept = request.headers().get(header::ACCEPT)?.to_str().ok()?;
        if path.starts_with("/v1/") || !accept.contains("text/html") {
            return None;
        }
        let page = match *request.method() {
            // The path becomes a parameter of a query: what has a meaning there is left out.
            Method::GET => Some(path.replace(['?', '&', '#', '%', '+'], "")),
            Method::POST => None,
            _ => return None,
        };
        Some(Self { page })
    }

    /// Shows a problem as a page; leads to the sign-in page if a token is needed.
    fn end(self, problem: Problem, response: Response) -> Response {
        if problem.status != StatusCode::UNAUTHORIZED {
            return pages::instead(problem, response);
        }
        match self.page {
            Some(page) => Redirect::to(&format!("{SIGN_IN}?to={page}")),
            None => Redirect::to(SIGN_IN),
        }
        .into_response()
    }
}

/// Counts a request until it is answered, also if its client goes away.
struct InFlight(Arc<Front>);

impl InFlight {
    fn enter(front: &Arc<Front>) -> Self {
        front.metrics.in_flight.inc();
        Self(Arc::clone(front))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

fn checked<'a>(
    front: &'a Front,
    request: &Request,
) -> Result<tokio::sync::SemaphorePermit<'a>, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    // A proxy could read two hosts, or one that contradicts a target in absolute form, differently.
    let named = request.uri().authority();
    if hosts.next().is_some()
        || named.is_some_and(|named| Some(named.as_str()) != host)
        || (host.is_none() && request.version() == Version::HTTP_11)
    {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "exactly one header Host is needed",
        ));
    }
    front.access.check_host(host)?;
    check_origin(request.method(), request.headers(), host)?;
    front.limits.request()
}

fn add_headers(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(value);
    }
    let stored = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(stored);
}
