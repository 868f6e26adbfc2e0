//! The forms that change the setting of a kind or of all kinds.

use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use client::kinds::{PauseEnd, WrongPause};
use common::{JobKind, KindSetting};
use serde::Deserialize;

use super::form::Form;
use super::layout::Done;
use super::problem::Problem;
use super::state::Pages;
use super::widgets::Moment;
use crate::auth::Operator;
use crate::kind_settings;

/// The form that pauses a kind, or all kinds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// How long; empty until somebody resumes the kind.
    r#for: String,
    reason: String,
}

/// The pause of a kind or of all kinds, as pages show it.
pub(crate) struct PauseNote {
    pub(crate) until: Option<Moment>,
    pub(crate) reason: Option<String>,
    pub(crate) by: Option<String>,
}

impl PauseNote {
    pub(crate) fn of(setting: &KindSetting) -> Self {
        Self {
            until: setting.paused_until.map(Moment::of),
            reason: setting.reason.clone(),
            by: setting.by.clone(),
        }
    }
}

pub(crate) async fn pause(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(kind): Path<String>,
    Form(asked): Form<Asked>,
) -> Result<Response, Problem> {
    let kind = parse(&kind)?;
    pause_as_asked(&pages, &operator, Some(&kind), &asked).await?;
    Ok(Redirect::to(&Done::Paused.at("/")).into_response())
}

pub(crate) async fn pause_all(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Form(asked): Form<Asked>,
) -> Result<Response, Problem> {
    pause_as_asked(&pages, &operator, None, &asked).await?;
    Ok(Redirect::to(&Done::AllPaused.at("/")).into_response())
}

/// Pauses a kind, or without one all kinds, as the form says.
async fn pause_as_asked(
    pages: &Pages,
    operator: &Operator,
    kind: Option<&JobKind>,
    asked: &Asked,
) -> Result<(), Problem> {
    let end = match asked.r#for.trim() {
        "" => PauseEnd::Resumed,
        length => PauseEnd::After(length_of(length)?),
    };
    let reason = Some(asked.reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    let paused = kind_settings::pause(&pages.app, operator, kind, end, reason).await?;
    paused.map_err(|error| not_done(&error))?;
    Ok(())
}

pub(crate) async fn resume(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(kind): Path<String>,
) -> Result<Response, Problem> {
    let kind = parse(&kind)?;
    let resumed = kind_settings::resume(&pages.app, &operator, Some(&kind)).await?;
    resumed.map_err(|error| not_done(&error))?;
    Ok(Redirect::to(&Done::Resumed.at("/")).into_response())
}

pub(crate) async fn resume_all(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
) -> Result<Response, Problem> {
    let resumed = kind_settings::resume(&pages.app, &operator, None).await?;
    resumed.map_err(|error| not_done(&error))?;
    Ok(Redirect::to(&Done::AllResumed.at("/")).into_response())
}

pub(crate) async fn heed_priorities(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(kind): Path<String>,
) -> Result<Response, Problem> {
    let kind = parse(&kind)?;
    let heeded = kind_settings::heed_priorities(&pages.app, &operator, &kind).await?;
    heeded.map_err(|error| not_done(&error))?;
    Ok(Redirect::to(&Done::PrioritiesHeeded.at("/")).into_response())
}

fn parse(kind: &str) -> Result<JobKind, Problem> {
    kind.parse()
        .map_err(|error| Problem::wrong(format!("This is not a kind: {error}.")))
}

fn length_of(text: &str) -> Result<Duration, Problem> {
    let length = text.parse::<common::WireDuration>();
    let length = length.map_err(|error| {
        Problem::wrong(format!("The length of the pause cannot be read: {error}."))
    })?;
    Ok(length.get())
}

fn not_done(error: &anyhow::Error) -> Problem {
    match error.downcast_ref::<WrongPause>() {
        Some(wrong) => Problem::wrong(format!("The pause was not set: {wrong}.")),
        None => Problem::not_done(error),
    }
}
