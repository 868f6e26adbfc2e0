//! Where a person gives a token, which the browser then keeps in a cookie that no script can read.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::Pages;
use super::form::Form;
use super::frame::{Frame, html};
use super::problem::Problem;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    to: String,
}

/// What the form sends.
#[derive(Deserialize)]
pub(crate) struct Given {
    token: String,
    #[serde(default)]
    to: String,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    frame: Frame,
    /// The page to go to.
    to: String,
    wrong: bool,
}

/// A page of ours: a link must not lead from here to another site.
fn ours(to: &str) -> String {
    // Browsers leave out tabs and line breaks, and take `\` for `/`, before they look for a host.
    let plain = to
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let here = plain && to.starts_with('/') && !to.starts_with("//");
    if here { to } else { "/" }.to_owned()
}

fn show(to: &str, wrong: bool) -> Result<Response, Problem> {
    html(&SignInPage {
        frame: Frame::bare("Sign in"),
        to: ours(to),
        wrong,
    })
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    if !pages.app.access.needs_token() {
        return Ok(Redirect::to(&ours(&asked.to)).into_response());
    }
    show(&asked.to, false)
}

pub(crate) async fn sign_in(
    State(pages): State<Pages>,
    Form(given): Form<Given>,
) -> Result<Response, Problem> {
    match pages.app.access.sign_in(given.token.trim()) {
        Some(cookie) => {
            let cookie = [(header::SET_COOKIE, cookie)];
            Ok((cookie, Redirect::to(&ours(&given.to))).into_response())
        }
        None => Ok((StatusCode::UNAUTHORIZED, show(&given.to, true)?).into_response()),
    }
}

pub(crate) async fn sign_out(State(pages): State<Pages>) -> Response {
    let cookie = [(header::SET_COOKIE, pages.app.access.sign_out())];
    (cookie, Redirect::to("/sign-in")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_our_own_pages_only() {
        assert_eq!(ours("/dead"), "/dead");
        for elsewhere in [
            "",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "/ /evil.example",
            "\t//evil.example",
            "https://evil.example",
            "dead",
        ] {
            assert_eq!(ours(elsewhere), "/", "{elsewhere}");
        }
    }
}
