//! The commands for dead letters.

use std::num::NonZeroU32;

use anyhow::ensure;
use bootstrap::Misconfigured;
use clap::{Args, Subcommand};
use client::Which;
use common::{DeadReason, JobId, JobKind};

use crate::values::{self, Payload};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Dead {
    /// List dead letters, the oldest first
    List {
        #[command(flatten)]
        filter: Filter,

        /// The most dead letters that are listed
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: usize,
    },
    /// Group the newest 10,000 dead letters by kind, reason and error, the largest group first
    Groups {
        #[command(flatten)]
        filter: Filter,
    },
    /// Show a dead letter with its payload, headers and failed attempts
    Show {
        /// The job
        #[arg(value_parser = values::id)]
        id: JobId,
    },
    /// Put the jobs of dead letters into the queue again, each job only once
    Replay(Replay),
    /// Remove dead letters for good
    Discard(Discard),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Filter {
    /// Only dead letters of this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<JobKind>,

    /// Only dead letters with this reason
    #[arg(long, value_name = "REASON", value_parser = values::reason())]
    pub(crate) reason: Option<DeadReason>,

    /// Only dead letters with this error, as `dead groups` shows it
    #[arg(long, value_name = "MESSAGE")]
    pub(crate) error: Option<String>,
}

impl Filter {
    pub(crate) fn which(&self) -> Which {
        Which {
            kind: self.kind.clone(),
            reason: self.reason,
            error: self.error.clone(),
        }
    }
}

/// One dead letter, or all.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OneOrAll {
    /// The job
    #[arg(value_name = "ID", value_parser = values::id, conflicts_with_all = ["kind", "reason", "error"])]
    pub(crate) id: Option<JobId>,

    /// All dead letters, or all that match --kind, --reason and --error
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Chosen {
    #[command(flatten)]
    pub(crate) which: OneOrAll,

    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// With --all: do not ask first; required if standard input is not a terminal
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) chosen: Chosen,

    /// With --all: how many are replayed per second at most [default: no limit]
    #[arg(long, value_name = "NUMBER", requires = "all", conflicts_with = "id")]
    pub(crate) rate: Option<NonZeroU32>,

    /// Replay it with a new payload: JSON, @ and the name of a JSON file, or - for standard input
    #[arg(
        long,
        value_name = "JSON|@FILE|-",
        conflicts_with = "all",
        allow_negative_numbers = true
    )]
    pub(crate) payload: Option<Payload>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

impl Dead {
    /// Refuses to change many dead letters without confirmation: standard input is not a terminal, and
    /// --yes is not given.
    pub(crate) fn check(&self, on_terminal: bool) -> anyhow::Result<()> {
        let (chosen, verb) = match self {
            Self::Replay(replay) => (&replay.chosen, "replay"),
            Self::Discard(discard) => (&discard.chosen, "discard"),
            _ => return Ok(()),
        };
        ensure!(
            !chosen.which.all || chosen.yes || chosen.dry_run || on_terminal,
            Misconfigured(format!(
                "`dead {verb} --all` asks for confirmation, but standard input is not a terminal: use \
                 --yes to skip the question, or --dry-run to see what it would do"
            ))
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parse;

    #[test]
    fn many_dead_letters_are_changed_only_after_a_confirmation() {
        let check = |args: &[&str], on_terminal| {
            let config = parse(&[&["dead", "discard"], args].concat()).unwrap();
            let Command::Dead(dead) = config.command else {
                panic!("{args:?}");
            };
            dead.check(on_terminal)
        };
        let refused = check(&["--all"], false).unwrap_err();
        assert!(refused.is::<Misconfigured>(), "{refused}");
        check(&["--all"], true).unwrap();
        for args in [
            &["--all", "--yes"][..],
            &["--all", "--dry-run"],
            &["01890a5d-ac96-774b-bcce-b302099a8057"],
        ] {
            check(args, false).unwrap();
        }
    }
}
