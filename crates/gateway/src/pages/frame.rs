//! What all pages have in common: the navigation, warnings, and the answer to what was just done.

use askama::Template;
use axum::response::{Html, IntoResponse as _, Response};
use common::JobId;
use serde::Deserialize;

use super::Pages;
use super::assets::{ASSETS, Assets};
use super::problem::Problem;
use super::text;

/// The frame of a page.
pub(crate) struct Frame {
    pub(crate) title: String,
    /// Which part of the navigation the page belongs to.
    pub(crate) here: &'static str,
    /// How many pieces of news make one update of the page; 0 if it does not change by itself.
    pub(crate) every: u32,
    /// What was just done.
    pub(crate) notice: Option<&'static str>,
    /// What is wrong with the system as a whole.
    pub(crate) warning: Option<&'static str>,
    /// How many dead letters there are, if there are any.
    pub(crate) dead: Option<String>,
    /// When the system was looked at.
    pub(crate) at: Option<String>,
    /// Whether there is a cookie to give back.
    pub(crate) sign_out: bool,
    pub(crate) assets: &'static Assets,
}

/// What the page before has done. A word that only we write: a link made by somebody else cannot
/// put text of its own into a page.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Done {
    Replayed,
    Already,
    Discarded,
    CancelAsked,
}

impl Done {
    /// The address of a page that says it.
    pub(crate) fn at(self, page: &str) -> String {
        let word = match self {
            Self::Replayed => "replayed",
            Self::Already => "already",
            Self::Discarded => "discarded",
            Self::CancelAsked => "cancel-asked",
        };
        format!("{page}?done={word}")
    }

    /// The address of a job's page that says it.
    pub(crate) fn of_job(self, id: JobId) -> String {
        self.at(&format!("/jobs/{id}"))
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Replayed => "The job was replayed: it is in the queue again.",
            Self::Already => "Nothing was done: the job is not among the dead letters any more.",
            Self::Discarded => "The dead letter was discarded.",
            Self::CancelAsked => {
                "A consumer was asked to cancel the job; what came of it is below."
            }
        }
    }
}

impl Frame {
    pub(crate) fn new(pages: &Pages, title: impl Into<String>, here: &'static str) -> Self {
        let seen = pages.history.borrow();
        Self {
            title: title.into(),
            here,
            every: 0,
            notice: None,
            warning: (seen.at.is_some() && !seen.connected).then_some(
                "NATS cannot be reached. What is shown here was seen before; the gateway goes on \
                 trying.",
            ),
            dead: seen.dead.filter(|&dead| dead > 0).map(text::count),
            at: seen.at.map(text::clock),
            sign_out: pages.app.access.needs_token(),
            assets: &ASSETS,
        }
    }

    /// The frame of a page that says nothing of the system.
    pub(crate) fn bare(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            here: "",
            every: 0,
            notice: None,
            warning: None,
            dead: None,
            at: None,
            sign_out: false,
            assets: &ASSETS,
        }
    }

    pub(crate) fn titled(mut self, title: String) -> Self {
        self.title = title;
        self
    }

    /// The page changes by itself: it is made anew after so many looks at the system.
    pub(crate) fn live(mut self, every: u32) -> Self {
        self.every = every;
        self
    }

    /// Tells what the page before has done.
    pub(crate) fn after(mut self, done: Option<Done>) -> Self {
        self.notice = done.map(Done::sentence);
        self
    }
}

/// A page as it is sent.
pub(crate) fn html(page: &impl Template) -> Result<Response, Problem> {
    let html = page.render().map_err(Problem::unexpected)?;
    Ok(Html(html).into_response())
}
