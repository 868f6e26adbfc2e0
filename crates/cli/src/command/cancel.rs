//! The command that cancels jobs.

use anyhow::ensure;
use bootstrap::Misconfigured;
use clap::{ArgGroup, Args};
use client::Filter;
use common::{JobId, JobKind, JobState};

use crate::values;

/// One job, or all that match.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("which").args(["id", "kind", "state"]).required(true).multiple(true)))]
pub(crate) struct Cancel {
    /// The job
    #[arg(value_name = "ID", conflicts_with_all = ["kind", "state", "dry_run", "yes"])]
    pub(crate) id: Option<JobId>,

    /// Instead of one job, all jobs of this kind that have not ended
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<JobKind>,

    /// Instead of one job, all jobs in this state
    #[arg(long, value_name = "STATE", value_parser = values::open_state())]
    pub(crate) state: Option<JobState>,

    /// With --kind or --state: list the jobs that would be cancelled, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// With --kind or --state: do not ask first; required if standard input is not a terminal
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

impl Cancel {
    pub(crate) fn filter(&self) -> Filter {
        Filter {
            state: self.state,
            kind: self.kind.clone(),
        }
    }

    /// Refuses to cancel many jobs without confirmation: standard input is not a terminal, and --yes is
    /// not given.
    pub(crate) fn check(&self, on_terminal: bool) -> anyhow::Result<()> {
        ensure!(
            self.id.is_some() || self.yes || self.dry_run || on_terminal,
            Misconfigured(
                "`cancel` with --kind or --state asks for confirmation, but standard input is not a \
                 terminal: use --yes to skip the question, or --dry-run to see what it would do"
                    .to_owned()
            )
        );
        Ok(())
    }
}
