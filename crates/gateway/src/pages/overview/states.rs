//! The numbers of jobs by state.

use client::Stream;
use common::{Counts, Fleet, JobState};

use super::tiles::known;
use crate::pages::history::Snapshot;
use crate::pages::widgets::text;

/// The number of jobs in a state.
pub(crate) struct StateRow {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    pub(crate) tone: &'static str,
    pub(crate) count: String,
    pub(crate) what: &'static str,
    /// Whether there is a list of these jobs.
    pub(crate) link: bool,
}

/// The rows of the table.
pub(super) fn states(seen: &Snapshot, fleet: Option<&Fleet>) -> Vec<StateRow> {
    let total = |count: fn(&Counts) -> u64| fleet.map(|fleet| count(&fleet.totals));
    let row = |state: JobState, label, count, what| StateRow {
        name: state.as_str(),
        label,
        tone: text::tone(state),
        count: known(count),
        what,
        link: true,
    };
    let counted = |name, tone, count, what| StateRow {
        name,
        label: name,
        tone,
        count: known(count),
        what,
        link: false,
    };
    vec![
        row(
            JobState::Scheduled,
            "scheduled, retrying",
            seen.messages_in(Stream::Later),
            "wait for their time, now",
        ),
        row(
            JobState::Queued,
            "queued",
            seen.queued(),
            "wait for a consumer, now",
        ),
        row(
            JobState::Running,
            "running",
            fleet.map(|fleet| fleet.in_flight),
            "core and durable jobs, now",
        ),
        row(
            JobState::Dead,
            "dead letters",
            seen.dead_letters,
            "wait for a person, now",
        ),
        row(
            JobState::Succeeded,
            "succeeded",
            total(|all| all.succeeded),
            "in all",
        ),
        counted("failed", "bad", total(|all| all.failed), "attempts, in all"),
        counted(
            "retried",
            "warn",
            total(|all| all.retried),
            "attempts after the first, in all",
        ),
        row(
            JobState::Cancelled,
            "cancelled",
            total(|all| all.cancelled),
            "while they ran, in all",
        ),
        row(
            JobState::Expired,
            "expired",
            total(|all| all.expired),
            "in all",
        ),
        counted(
            "rejected",
            "idle",
            total(|all| all.rejected),
            "not readable for their handler, or no consumer serves their kind, in all",
        ),
    ]
}
