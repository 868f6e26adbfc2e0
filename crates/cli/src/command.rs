//! The commands and flags of the command line.

pub(crate) mod backup;
pub(crate) mod dead;
pub(crate) mod jobs_bulk;
pub(crate) mod schedules;

use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use bootstrap::ToolOptions;
use clap::{ArgGroup, Args, Parser, Subcommand};
use client::{Cursor, Filter, ManyAction, SearchText};
use common::{
    JobId, JobKind, JobState, KindPattern, MaxAttempts, OnConflict, Priority, Timestamp, UniqueKey,
    Until, WireDuration,
};

use self::backup::Restore;
use self::dead::Dead;
use self::jobs_bulk::Jobs;
use self::schedules::Schedules;
use crate::values::{self, Payload};

/// Submit durable jobs, follow them, and handle dead letters.
///
/// Results go to standard output, and everything else to standard error. The exit code is 0 when the
/// command did what it was asked for, 1 when it did not, 2 after a mistake on the command line, and
/// 130 after Ctrl-C.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print JSON: one object, or for lists one object a line
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) options: ToolOptions,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a durable job and print its id
    Submit(Submit),
    /// Show a job; exit with 1 if it is unknown
    Info {
        /// The job
        #[arg(value_parser = values::id)]
        id: JobId,
    },
    /// Say why a job has not ended; exit with 1 if it is unknown
    ///
    /// Its kind may be paused, no consumer may serve it, it may wait for its time, or for other jobs of its
    /// kind.
    Why {
        /// The job
        #[arg(value_parser = values::id)]
        id: JobId,
    },
    /// Wait until a job has ended, and show it; exit with 0 if it succeeded, else 1
    Wait {
        /// The job
        #[arg(value_parser = values::id)]
        id: JobId,

        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Cancel a job, or many; exit with 1 if it is unknown, or has ended in another way
    Cancel(Jobs),
    /// Run a job now that waits for its time or for its next attempt, or many; exit with 1 if it does not wait
    ///
    /// It is due within about a second. This needs a consumer, whatever kinds it serves.
    #[command(name = "run-now")]
    RunNow(Jobs),
    /// Pause a kind, or all: durable jobs are accepted, and none of them is started
    ///
    /// Jobs that run end normally. A kind that is paused already gets the new end and the new reason. The
    /// pause survives restarts.
    Pause(Pause),
    /// Resume a paused kind, or all: waiting jobs are run
    ///
    /// A kind that is paused on its own stays paused when all kinds are resumed, and one that is resumed stays
    /// paused while all kinds are.
    Resume(Kind),
    /// List the settings of kinds, or change one
    ///
    /// Only kinds that have a setting are listed, and before them the setting of all kinds, if there is one.
    Kinds {
        #[command(subcommand)]
        change: Option<Kinds>,
    },
    /// List jobs, the most recently changed first
    ///
    /// With a filter, it says on standard error how many jobs were read, and it ends after 100,000 of
    /// them unless `--all` is given.
    List(List),
    /// Show how many jobs wait and run, by kind
    ///
    /// For the first 50 kinds with waiting jobs, it also shows how long the oldest job has waited and
    /// whether a consumer serves the kind. Paused kinds are marked.
    Queues,
    /// Submit jobs again and again, at the times of a schedule
    #[command(subcommand)]
    Schedules(Schedules),
    /// Handle dead letters: jobs that failed for good
    #[command(subcommand)]
    Dead(Dead),
    /// Show the consumers, their states and their load
    Fleet {
        /// Only consumers whose name or host contains this
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// Show queues and consumers repeatedly, until Ctrl-C
    ///
    /// On a terminal, each view replaces the last one. Otherwise the views are printed one after
    /// another.
    Top(Top),
    /// Back up all jobs, records, dead letters and schedules into a folder
    ///
    /// Services may run meanwhile. All jobs that the server had acknowledged before are in the backup.
    Backup {
        /// The folder, which is made, or is empty
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        folder: PathBuf,
    },
    /// Restore a backup to an empty server, or with --replace in place of what is there
    ///
    /// No consumer may run meanwhile. It needs the NATS user `restore`.
    Restore(Restore),
    /// Print a script with which a shell completes commands, flags, kinds and ids
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of all commands, as troff
    Man,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Submit {
    /// Its kind, which selects the handler
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: JobKind,

    /// Its payload: JSON, @ and the name of a JSON file, or - for standard input
    /// [default: null]
    #[arg(long, value_name = "JSON|@FILE|-", allow_negative_numbers = true)]
    pub(crate) payload: Option<Payload>,

    /// Its id, a UUID; a job whose id is known already is not stored again [default: a new one]
    #[arg(long, value_name = "ID", value_parser = values::id)]
    pub(crate) id: Option<JobId>,

    /// Its priority among the waiting jobs of its kind
    #[arg(long, value_name = "PRIORITY", default_value = "normal", value_parser = values::priority())]
    pub(crate) priority: Priority,

    /// Run it no sooner than this long from now [default: at once]
    #[arg(long, value_name = "DURATION", conflicts_with = "run_at")]
    pub(crate) delay: Option<WireDuration>,

    /// Run it no sooner than this time, such as 2026-01-31T09:30:00Z [default: at once]
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) run_at: Option<Timestamp>,

    /// How long one attempt may run [default: the handler's]
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<WireDuration>,

    /// Do not start it after this time, such as 2026-01-31T09:30:00Z [default: no end]
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) deadline: Option<Timestamp>,

    /// How many attempts it has at most, 1 to 100 [default: the handler's, else 5]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_attempts: Option<MaxAttempts>,

    /// Store it only if no other job of its kind holds this key, of up to 256 bytes
    #[arg(long, value_name = "KEY")]
    pub(crate) unique: Option<UniqueKey>,

    /// With --unique: until when it holds the key
    #[arg(
        long, value_name = "WHEN", default_value = "ended", requires = "unique",
        value_parser = values::until()
    )]
    pub(crate) unique_until: Until,

    /// With --unique: what to do if another job holds the key; `keep` takes that job in its place
    #[arg(
        long, value_name = "WHAT", default_value = "reject", requires = "unique",
        value_parser = values::on_conflict()
    )]
    pub(crate) on_conflict: OnConflict,

    /// Wait until it has ended, and show it; exit with 0 if it succeeded, else 1
    #[arg(long)]
    pub(crate) wait: bool,

    /// With --wait: how long to wait
    #[arg(
        long, value_name = "DURATION", default_value = "1m", requires = "wait",
        value_parser = humantime::parse_duration
    )]
    pub(crate) wait_timeout: Duration,
}

/// One kind, or all.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("kinds").args(["kind", "all"]).required(true)))]
pub(crate) struct Kind {
    /// The kind
    pub(crate) kind: Option<JobKind>,

    /// Instead of one kind, all of them, also those that are created later
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    pub(crate) kind: Kind,

    /// How long the pause is [default: until somebody resumes the kind]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) length: Option<Duration>,

    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Kinds {
    /// Change the setting of a kind
    Set {
        /// The kind
        kind: JobKind,

        /// Have the priorities of its jobs heeded; consumers also do this when they get the first job that is
        /// not of normal priority, and it is not undone
        #[arg(long, value_name = "on", value_parser = ["on"], required = true)]
        priorities: String,
    },
}

/// Which jobs are listed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Search {
    /// Only jobs in this state
    #[arg(long, value_name = "STATE", value_parser = values::state())]
    pub(crate) state: Option<JobState>,

    /// Only jobs of this kind, or of kinds that match, such as 'mail.*' or 'mail.>'
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<KindPattern>,

    /// Only jobs that have been in their state, or have ended, since this time or later: a time, or
    /// how long ago, such as 2026-01-31T09:30:00Z or 2h
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    pub(crate) since: Option<Timestamp>,

    /// The same, but before this time
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    pub(crate) until: Option<Timestamp>,

    /// Only jobs with this text in their payload or in the error of an attempt
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Option<SearchText>,
}

impl Search {
    pub(crate) fn filter(self) -> Filter {
        Filter {
            state: self.state,
            kind: self.kind,
            since: self.since,
            until: self.until,
            text: self.text,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) search: Search,

    /// The most jobs that are listed
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "50",
        conflicts_with = "all"
    )]
    pub(crate) limit: NonZeroU64,

    /// List all jobs that match, however many there are and have to be read
    #[arg(long)]
    pub(crate) all: bool,

    /// Continue an earlier list: the cursor that it printed to standard error
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<Cursor>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Top {
    /// The time between two views, at least 100ms
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,

    /// How many views are shown [default: no end]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) count: Option<NonZeroU64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval < Duration::from_millis(100) => {
            Err("at least 100ms is needed".to_owned())
        }
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

impl Command {
    /// Reports mistakes that can be found without a connection.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Cancel(jobs) => jobs.check(ManyAction::Cancel, std::io::stdin().is_terminal()),
            Self::RunNow(jobs) => jobs.check(ManyAction::RunNow, std::io::stdin().is_terminal()),
            Self::Dead(dead) => dead.check(std::io::stdin().is_terminal()),
            Self::Restore(restore) => restore.check(std::io::stdin().is_terminal()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn parse(args: &[&str]) -> Result<Config, String> {
        let matches = crate::tool::TOOL
            .command::<Config>()
            .try_get_matches_from([&["jobs"], args].concat());
        let config = matches.and_then(|matches| clap::FromArgMatches::from_arg_matches(&matches));
        config.map_err(|error: clap::Error| error.to_string())
    }

    #[test]
    fn the_command_is_sound() {
        crate::tool::TOOL.command::<Config>().debug_assert();
    }

    #[test]
    fn flags_of_the_tool_may_stand_anywhere() {
        for args in [["--json", "queues"], ["queues", "--json"]] {
            assert!(parse(&args).unwrap().json, "{args:?}");
        }
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let config = parse(&["dead", "show", id, "--log", "debug"]).unwrap();
        assert_eq!(config.options.filter, "debug");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let time = "2026-01-31T09:30:00Z";
        for args in [
            &["dead", "replay", id, "--all"][..],
            &["dead", "discard", id, "--kind", "mail"],
            &["dead", "discard", "--all", "--yes", "--dry-run"],
            &["dead", "replay", "--all", "--payload", "1"],
            &["dead", "replay", id, "--rate", "5"],
            &["submit", "--kind", "a", "--delay", "1s", "--run-at", time],
            &["list", "--all", "--limit", "5"],
            &["cancel", id, "--kind", "mail"],
            &["cancel", id, "--dry-run"],
            &["cancel", "--kind", "mail", "--yes", "--dry-run"],
            &["restore", "backup", "--replace", "--yes", "--dry-run"],
            &["pause", "mail", "--all"],
            &["resume", "mail", "--all"],
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains("cannot be used with"), "{args:?}: {error}");
        }
        for args in [
            &["dead", "replay", "--rate", "5"][..],
            &["submit", "--kind", "a", "--wait-timeout", "1s"],
            &["submit"],
            &["dead", "discard"],
            &["cancel"],
            &["cancel", "--yes"],
            &["backup"],
            &["restore", "--replace"],
            &["restore", "backup", "--yes"],
            &["pause", "--for", "1h"],
            &["resume"],
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains("required"), "{args:?}: {error}");
        }
    }
}
