//! The page on which a person enters a token. The browser keeps it in a cookie that no script can read.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::form::Form;
use super::layout::Layout;
use super::problem::Problem;
use super::render::html;
use super::state::Pages;

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    to: String,
}

/// The fields of the form.
#[derive(Deserialize)]
pub(crate) struct Given {
    token: String,
    #[serde(default)]
    to: String,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    layout: Layout,
    /// The path of the page to show after the sign-in.
    to: String,
    wrong: bool,
}

/// The path of a page of this gateway, or `/`: a link must not lead from here to another site.
fn own_page(to: &str) -> String {
    // Browsers drop tabs and line breaks, and read `\` as `/`, before they look for a host.
    let plain = to
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let own = plain && to.starts_with('/') && !to.starts_with("//");
    if own { to } else { "/" }.to_owned()
}

fn show(to: &str, wrong: bool) -> Result<Response, Problem> {
    html(&SignInPage {
        layout: Layout::bare("Sign in"),
        to: own_page(to),
        wrong,
    })
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    if !pages.app.access.needs_token() {
        return Ok(Redirect::to(&own_page(&asked.to)).into_response());
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
            Ok((cookie, Redirect::to(&own_page(&given.to))).into_response())
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
    fn signing_in_leads_only_to_own_pages() {
        assert_eq!(own_page("/dead"), "/dead");
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
            assert_eq!(own_page(elsewhere), "/", "{elsewhere}");
        }
    }
}
