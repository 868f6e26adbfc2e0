//! The command that restores a backup.

use std::path::PathBuf;

use anyhow::ensure;
use bootstrap::Misconfigured;
use clap::Args;

#[derive(Clone, Debug, Args)]
pub(crate) struct Restore {
    /// The folder of the backup
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) folder: PathBuf,

    /// Delete the streams that exist, with all that is in them, after the backup was checked
    #[arg(long)]
    pub(crate) replace: bool,

    /// Check the backup, say what would be restored and deleted, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// With --replace: do not ask first; required if standard input is not a terminal
    #[arg(long, requires = "replace", conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

impl Restore {
    /// Refuses to delete streams without confirmation: standard input is not a terminal, and --yes is not given.
    pub(crate) fn check(&self, on_terminal: bool) -> anyhow::Result<()> {
        ensure!(
            !self.replace || self.yes || self.dry_run || on_terminal,
            Misconfigured(
                "`restore --replace` asks for confirmation, but standard input is not a terminal: use --yes to skip \
                 the question, or --dry-run to see what it would do"
                    .to_owned()
            )
        );
        Ok(())
    }
}
