//! The frame of all pages: navigation, warnings, and the notice of what was just done.

use common::JobId;
use serde::Deserialize;

use super::assets::{ASSETS, Assets};
use super::state::Pages;
use super::widgets::text;

/// The layout of a page.
pub(crate) struct Layout {
    pub(crate) title: String,
    /// The entry of the navigation that the page belongs to.
    pub(crate) here: &'static str,
    /// The page is updated after so many snapshots; 0 is never.
    pub(crate) every: u32,
    /// A notice of what was just done.
    pub(crate) notice: Option<&'static str>,
    /// What is wrong with the system as a whole.
    pub(crate) warning: Option<&'static str>,
    /// The number of dead letters; `None` if there are none, or it is not known.
    pub(crate) dead_letters: Option<String>,
    /// The time of the snapshot.
    pub(crate) at: Option<String>,
    /// Whether the page has a button to sign out.
    pub(crate) sign_out: bool,
    pub(crate) assets: &'static Assets,
}

/// What was just done, as a word in an address. A link made by somebody else cannot put text of its own
/// into a page.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Done {
    Replayed,
    Already,
    Discarded,
    CancelAsked,
    ManyCancelAsked,
    RunNow,
    NotWaiting,
    ManyRunNow,
    Paused,
    Resumed,
    AllPaused,
    AllResumed,
    PrioritiesHeeded,
    SchedulePaused,
    ScheduleResumed,
    ScheduleRun,
    ScheduleDeleted,
}

impl Done {
    /// The address of a page with this notice.
    pub(crate) fn at(self, page: &str) -> String {
        let word = match self {
            Self::Replayed => "replayed",
            Self::Already => "already",
            Self::Discarded => "discarded",
            Self::CancelAsked => "cancel-asked",
            Self::ManyCancelAsked => "many-cancel-asked",
            Self::RunNow => "run-now",
            Self::NotWaiting => "not-waiting",
            Self::ManyRunNow => "many-run-now",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::AllPaused => "all-paused",
            Self::AllResumed => "all-resumed",
            Self::PrioritiesHeeded => "priorities-heeded",
            Self::SchedulePaused => "schedule-paused",
            Self::ScheduleResumed => "schedule-resumed",
            Self::ScheduleRun => "schedule-run",
            Self::ScheduleDeleted => "schedule-deleted",
        };
        format!("{page}?done={word}")
    }

    /// The address of the page of a job with this notice.
    pub(crate) fn of_job(self, id: JobId) -> String {
        self.at(&format!("/jobs/{id}"))
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Replayed => "The job was replayed: it is queued again.",
            Self::Already => "Nothing was done: the job has no dead letter any more.",
            Self::Discarded => "The dead letter was discarded.",
            Self::Paused => "The kind is paused: its jobs are accepted, and none is started.",
            Self::Resumed => {
                "The kind is resumed: its waiting jobs are run, unless all kinds are paused."
            }
            Self::AllPaused => "All kinds are paused: jobs are accepted, and none is started.",
            Self::AllResumed => {
                "All kinds are resumed, but for those that are paused on their own: waiting jobs are run."
            }
            Self::PrioritiesHeeded => "The priorities of the kind are heeded within some seconds.",
            Self::SchedulePaused => "The schedule is paused: it has no ticks until it is resumed.",
            Self::ScheduleResumed => "The schedule is resumed; its next tick is below.",
            Self::ScheduleRun => "A job of the schedule was submitted.",
            Self::ScheduleDeleted => "The schedule was deleted.",
            Self::CancelAsked => "A consumer was asked to cancel the job; its state is below.",
            Self::RunNow => "The job is due within a second.",
            Self::NotWaiting => "Nothing was done: the job does not wait for a time any more.",
            Self::ManyRunNow => "The jobs that waited are due within a second.",
            Self::ManyCancelAsked => {
                "Consumers were asked to cancel the jobs; those that have not ended yet are below."
            }
        }
    }
}

impl Layout {
    pub(crate) fn new(pages: &Pages, title: impl Into<String>, here: &'static str) -> Self {
        let seen = pages.history.borrow();
        Self {
            title: title.into(),
            here,
            every: 0,
            notice: None,
            warning: (seen.at.is_some() && !seen.connected)
                .then_some("NATS cannot be reached. The gateway goes on trying to connect."),
            dead_letters: seen.dead_letters.and_then(Self::badge),
            at: seen.at.map(text::clock),
            sign_out: pages.app.access.needs_token(),
            assets: &ASSETS,
        }
    }

    /// The badge for a number of dead letters; `None` if there are none.
    pub(crate) fn badge(number: u64) -> Option<String> {
        (number > 0).then(|| text::count(number))
    }

    /// Shows the number of dead letters that the page itself has read.
    pub(crate) fn count_dead_letters(&mut self, number: u64) {
        self.dead_letters = Self::badge(number);
    }

    /// The layout of a page that shows nothing of the system.
    pub(crate) fn bare(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            here: "",
            every: 0,
            notice: None,
            warning: None,
            dead_letters: None,
            at: None,
            sign_out: false,
            assets: &ASSETS,
        }
    }

    pub(crate) fn titled(mut self, title: String) -> Self {
        self.title = title;
        self
    }

    /// Updates the page after so many snapshots.
    pub(crate) fn live(mut self, every: u32) -> Self {
        self.every = every;
        self
    }

    /// Shows a notice of what was just done.
    pub(crate) fn after(mut self, done: Option<Done>) -> Self {
        self.notice = done.map(Done::sentence);
        self
    }
}
