//! Which jobs a command cancels or runs now.

use anyhow::ensure;
use bootstrap::Misconfigured;
use clap::{ArgGroup, Args};
use client::{Filter, ManyAction, SearchText};
use common::{JobId, JobState, KindPattern, Timestamp};

use crate::values;

/// One job, or all that match.
#[derive(Clone, Debug, Args)]
#[command(group(
    ArgGroup::new("which")
        .args(["id", "kind", "state", "since", "until", "text"])
        .required(true)
        .multiple(true)
))]
pub(crate) struct Jobs {
    /// The job
    #[arg(
        value_name = "ID", value_parser = values::id,
        conflicts_with_all = ["kind", "state", "since", "until", "text", "dry_run", "yes"],
    )]
    pub(crate) id: Option<JobId>,

    /// Instead of one job, all jobs of this kind, or of kinds that match, such as 'mail.*', that can be cancelled,
    /// or run now
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<KindPattern>,

    /// Instead of one job, all jobs in this state
    #[arg(long, value_name = "STATE", value_parser = values::open_state())]
    pub(crate) state: Option<JobState>,

    /// Instead of one job, all jobs that have been in their state since this time or later: a time, or
    /// how long ago, such as 2026-01-31T09:30:00Z or 2h
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    pub(crate) since: Option<Timestamp>,

    /// The same, but before this time
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    pub(crate) until: Option<Timestamp>,

    /// Instead of one job, all jobs with this text in their payload or in the error of an attempt
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Option<SearchText>,

    /// Without an id: list the jobs that match, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Without an id: do not ask first; required if standard input is not a terminal
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

impl Jobs {
    pub(crate) fn filter(&self) -> Filter {
        Filter {
            state: self.state,
            kind: self.kind.clone(),
            since: self.since,
            until: self.until,
            text: self.text.clone(),
        }
    }

    /// Refuses to change many jobs without confirmation: standard input is not a terminal, and --yes is
    /// not given. Refuses a state whose jobs cannot be cancelled, or run now.
    pub(crate) fn check(&self, action: ManyAction, on_terminal: bool) -> anyhow::Result<()> {
        let command = match action {
            ManyAction::Cancel => "cancel",
            ManyAction::RunNow => "run-now",
        };
        ensure!(
            self.id.is_some() || self.yes || self.dry_run || on_terminal,
            Misconfigured(format!(
                "`{command}` without an id asks for confirmation, but standard input is not a \
                 terminal: use --yes to skip the question, or --dry-run to see what it would do"
            ))
        );
        if self.id.is_none()
            && let Err((_, text)) = action.check(&self.filter())
        {
            return Err(Misconfigured(text).into());
        }
        Ok(())
    }
}
