//! What holds for every request: where it may come from, how many there may be, what is said of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use bootstrap::trace::Span;
use tracing::debug;

use crate::access::{SIGN_IN, check_origin};
use crate::app::Front;
use crate::pages;
use crate::problem::Problem;

/// A request may take so long beside the time for which it asks to wait.
const LONGEST: Duration = Duration::from_mins(7);

/// Nothing is loaded from elsewhere, no script stands in a page, and nobody shows it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

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
        // With `no-referrer` browsers would hide from us, too, that a form comes from our own page:
        // they send `Origin: null` then, and no button of the dashboard would do anything.
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

/// Answers a request if it may be, and dresses the answer.
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
        Ok(_place) => {
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
    dress(&mut response);
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

/// A person who goes to a page, by a link or by a form: a program does not ask for HTML.
struct Navigation {
    /// The page that was to be seen; none after a form, which is not to be sent again.
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
            // What has a meaning in a query stays behind: the path alone leads far enough.
            Method::GET => Some(path.replace(['?', '&', '#', '%', '+'], "")),
            Method::POST => None,
            _ => return None,
        };
        Some(Self { page })
    }

    /// Shows the person what a program is told. Whoever has no token is asked for it.
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

/// Counts a request as long as it is worked at, also if its client goes away.
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
    // Two hosts, or one that a target in absolute form contradicts, could be read differently by
    // whoever stands between.
    let named = request.uri().authority();
    if hosts.next().is_some()
        || named.is_some_and(|named| Some(named.as_str()) != host)
        || (host.is_none() && request.version() == Version::HTTP_11)
    {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "one header Host is needed",
        ));
    }
    front.access.check_host(host)?;
    check_origin(request.method(), request.headers(), host)?;
    front.limits.request()
}

fn dress(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(value);
    }
    let stored = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(stored);
}
