//! The page of the schedules, with forms that pause, resume, run and delete one.

use std::collections::HashMap;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use client::schedules::{self, Expected, ScheduleName, ScheduleRecord};
use common::{JobId, JobState};
use serde::Deserialize;

use super::layout::{Done, Layout};
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::{Moment, text};
use crate::auth::Operator;
use crate::http;
use crate::schedules as changes;

/// The address of the page.
const HERE: &str = "/schedules";

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "schedules.html")]
pub(crate) struct SchedulesPage {
    layout: Layout,
    rows: Vec<Row>,
    /// The names of those whose stored record cannot be read.
    unreadable: Vec<String>,
}

struct Row {
    name: String,
    note: Option<String>,
    kind: String,
    when: String,
    zone: Option<String>,
    paused: bool,
    next: Option<Moment>,
    last: Option<Last>,
    skipped: Option<String>,
}

struct Last {
    at: Moment,
    id: JobId,
    state: &'static str,
    tone: &'static str,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    pages.app.check_nats()?;
    let client = &pages.app.nats.client;
    let all = schedules::list(client).await.map_err(Problem::away)?;
    let records = all.iter().filter_map(|(_, stored)| stored.record.as_ref());
    let states = schedules::last_states(client, records).await;
    let states = states.map_err(Problem::away)?;
    let layout = Layout::new(&pages, "Schedules", "schedules")
        .live(2)
        .after(asked.done);
    let mut page = SchedulesPage::of(layout);
    for (name, stored) in all {
        match stored.record {
            Some(record) => page.rows.push(Row::of(&record, &states)),
            None => page.unreadable.push(name.to_string()),
        }
    }
    html(&page)
}

impl SchedulesPage {
    pub(crate) fn of(layout: Layout) -> Self {
        Self {
            layout,
            rows: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn show(&mut self, record: &ScheduleRecord) {
        self.rows.push(Row::of(record, &HashMap::new()));
    }
}

impl Row {
    fn of(record: &ScheduleRecord, states: &HashMap<JobId, JobState>) -> Self {
        let schedule = &record.schedule;
        let when = match (&schedule.cron, schedule.every) {
            (Some(cron), _) => cron.clone(),
            (None, Some(every)) => format!("every {every}"),
            (None, None) => String::new(),
        };
        Self {
            name: record.name.to_string(),
            note: schedule.note.clone(),
            kind: schedule.job.message().kind.to_string(),
            when,
            zone: schedule.cron.is_some().then(|| schedule.time_zone.clone()),
            paused: schedule.paused,
            next: record.next.map(Moment::of),
            last: record.last.map(|last| {
                let state = states.get(&last.id).copied();
                Last {
                    at: Moment::of(last.tick),
                    id: last.id,
                    state: state.map_or("no record", JobState::as_str),
                    tone: state.map_or("", text::tone),
                }
            }),
            skipped: (record.skipped > 0).then(|| text::count(record.skipped)),
        }
    }
}

pub(crate) async fn pause(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let paused = changes::set_paused(&pages.app, &operator, &parse(&name)?, true).await;
    paused.map_err(explained)?;
    Ok(Redirect::to(&Done::SchedulePaused.at(HERE)).into_response())
}

pub(crate) async fn resume(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let resumed = changes::set_paused(&pages.app, &operator, &parse(&name)?, false).await;
    resumed.map_err(explained)?;
    Ok(Redirect::to(&Done::ScheduleResumed.at(HERE)).into_response())
}

pub(crate) async fn run(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let run = changes::run_now(&pages.app, &operator, &parse(&name)?).await;
    run.map_err(explained)?;
    Ok(Redirect::to(&Done::ScheduleRun.at(HERE)).into_response())
}

pub(crate) async fn delete(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = parse(&name)?;
    let deleted = changes::delete(&pages.app, &operator, &name, Expected::Anything).await;
    deleted.map_err(explained)?;
    Ok(Redirect::to(&Done::ScheduleDeleted.at(HERE)).into_response())
}

fn parse(name: &str) -> Result<ScheduleName, Problem> {
    name.parse()
        .map_err(|error| Problem::wrong(format!("This is not a schedule: {error}.")))
}

fn explained(problem: http::Problem) -> Problem {
    if problem.status == StatusCode::NOT_FOUND {
        return Problem::not_found("There is no such schedule any more.");
    }
    problem.into()
}
