//! Cancels all jobs that a search finds, or runs those of them now that wait for their time: a page that counts them
//! and asks for confirmation, and its form. It needs no script.

use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use client::{Filter, ManyAction};
use serde::Deserialize;
use tokio::time::Instant;

use super::form::Form;
use super::job_filter::JobFilter;
use super::layout::{Done, Layout};
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::text;
use crate::auth::Operator;
use crate::bulk::Bounds;
use crate::jobs_bulk::{self, Expect, JobsWork};

/// The most jobs that are changed from the page.
const MAX_COUNTED: u64 = 10_000;

/// How long the jobs are counted.
const COUNTING: Duration = Duration::from_secs(15);

#[derive(Template)]
#[template(path = "jobs_bulk.html")]
struct ConfirmPage {
    layout: Layout,
    /// Whether they are cancelled; else they are run now.
    cancels: bool,
    which: JobFilter,
    query: String,
    /// How many jobs match, in words.
    count: String,
    /// How many jobs match; `None` if they are too many, or could not be counted.
    expect: Option<u64>,
}

pub(crate) async fn confirm_cancel(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Query(which): Query<JobFilter>,
) -> Result<Response, Problem> {
    confirm(&pages, &headers, which, ManyAction::Cancel).await
}

pub(crate) async fn confirm_run_now(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Query(which): Query<JobFilter>,
) -> Result<Response, Problem> {
    confirm(&pages, &headers, which, ManyAction::RunNow).await
}

async fn confirm(
    pages: &Pages,
    headers: &HeaderMap,
    which: JobFilter,
    action: ManyAction,
) -> Result<Response, Problem> {
    let filter = checked(&which, action)?;
    let which = which.tidy(Ok(&filter));
    pages.app.check_nats()?;
    let _permit = pages.app.limits.wait()?;
    let mut bounds = Bounds {
        deadline: Some(Instant::now() + COUNTING),
        ..Bounds::of_request(&pages.app, headers)?
    };
    let client = &pages.app.nats.client;
    let counted = jobs_bulk::count(client, action, &filter, &mut bounds, MAX_COUNTED).await?;
    let expect = (counted.complete && counted.jobs <= MAX_COUNTED).then_some(counted.jobs);
    html(&ConfirmPage {
        layout: Layout::new(
            pages,
            match action {
                ManyAction::Cancel => "Cancel these jobs?",
                ManyAction::RunNow => "Run these jobs now?",
            },
            "jobs",
        ),
        cancels: action == ManyAction::Cancel,
        query: which.query(),
        which,
        count: match expect {
            Some(jobs) => text::count(jobs),
            None => format!("more than {}", text::count(counted.jobs.min(MAX_COUNTED))),
        },
        expect,
    })
}

/// Which jobs, and how many a person has seen and confirmed. A misspelt field is refused: it must not
/// widen the choice.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobsForm {
    #[serde(default)]
    state: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    text: String,
    expect: u64,
}

pub(crate) async fn cancel(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    Form(form): Form<JobsForm>,
) -> Result<Response, Problem> {
    apply(&pages, operator, &headers, form, ManyAction::Cancel).await
}

pub(crate) async fn run_now(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    Form(form): Form<JobsForm>,
) -> Result<Response, Problem> {
    apply(&pages, operator, &headers, form, ManyAction::RunNow).await
}

/// Cancels the jobs, or runs them now, after a person has confirmed it.
async fn apply(
    pages: &Pages,
    operator: Operator,
    headers: &HeaderMap,
    form: JobsForm,
    action: ManyAction,
) -> Result<Response, Problem> {
    let which = JobFilter {
        state: form.state,
        kind: form.kind,
        since: form.since,
        until: form.until,
        text: form.text,
    };
    let filter = checked(&which, action)?;
    if form.expect > MAX_COUNTED {
        return Err(Problem::wrong("These are too many jobs for one form."));
    }
    pages.app.check_nats()?;
    let _permit = pages.app.limits.wait()?;
    let bounds = Bounds::of_request(&pages.app, headers)?;
    let work = JobsWork {
        action,
        filter,
        dry_run: false,
        expect: Some(Expect::AtMost(form.expect)),
        by: operator.name,
    };
    let outcome = jobs_bulk::run(&pages.app, &work, bounds).await?;
    if outcome.failed > 0 || !outcome.complete {
        let why = outcome
            .error
            .unwrap_or_else(|| "it took too long".to_owned());
        return Err(Problem::refused(
            StatusCode::SERVICE_UNAVAILABLE,
            match action {
                ManyAction::Cancel => format!(
                    "Cancellation of {} of these jobs was requested, and then it ended early: {why}.",
                    text::count(outcome.done as u64)
                ),
                ManyAction::RunNow => format!(
                    "Of these jobs, {} run now; then it ended early: {why}.",
                    text::count(outcome.done as u64)
                ),
            },
        ));
    }
    let done = match action {
        ManyAction::Cancel => Done::ManyCancelAsked,
        ManyAction::RunNow => Done::ManyRunNow,
    };
    let page = done.at("/jobs");
    Ok(Redirect::to(&format!("{page}&{}", which.query())).into_response())
}

/// The filter, if it means jobs that can be cancelled, or run now.
fn checked(which: &JobFilter, action: ManyAction) -> Result<Filter, Problem> {
    let filter = which
        .filter()
        .map_err(|text| Problem::wrong(format!("{text}.")))?;
    let sound = action.check(&filter);
    sound.map_err(|(_, text)| Problem::wrong(format!("It cannot be done: {text}.")))?;
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_that_is_empty_misspelt_or_without_a_count_changes_nothing() {
        let read = |form: &str| serde_urlencoded::from_str::<JobsForm>(form);
        assert!(read("kind=sleep&expect=3").is_ok());
        for form in [
            "",
            "kind=sleep",
            "knd=sleep&expect=3",
            "kind=sleep&expect=many",
        ] {
            assert!(read(form).is_err(), "{form}");
        }
        for query in ["", "kind=+", "state=succeeded", "state=dead", "kind=a*"] {
            let which: JobFilter = serde_urlencoded::from_str(query).unwrap();
            for action in [ManyAction::Cancel, ManyAction::RunNow] {
                assert!(checked(&which, action).is_err(), "{query}");
            }
        }
        let which: JobFilter = serde_urlencoded::from_str("state=queued").unwrap();
        assert!(checked(&which, ManyAction::Cancel).is_ok());
        assert!(checked(&which, ManyAction::RunNow).is_err());
    }
}
