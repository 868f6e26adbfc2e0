//! The flags of `jobs schedules`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use client::schedules::{CatchUp, JobTemplate, Overlap, Schedule, ScheduleName};
use common::{JobKind, JobMessage, MaxAttempts, Priority, Timestamp, WireDuration};
use serde_json::value::RawValue;

use crate::values::{self, Payload};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Schedules {
    /// List schedules with their next tick, their last job and how it ended
    List,
    /// Show a schedule and its next ten ticks; exit with 1 if there is none
    Show {
        /// The schedule
        name: ScheduleName,
    },
    /// Create a schedule, or replace one
    ///
    /// What is not given is as for a new schedule, also if the schedule exists.
    Set(Box<Set>),
    /// Pause a schedule: it has no ticks until it is resumed, and these are not caught up
    Pause {
        /// The schedule
        name: ScheduleName,
    },
    /// Resume a paused schedule
    Resume {
        /// The schedule
        name: ScheduleName,
    },
    /// Submit a job of a schedule now, and print its id
    Run {
        /// The schedule
        name: ScheduleName,
    },
    /// Delete a schedule; exit with 1 if there is none
    Delete {
        /// The schedule
        name: ScheduleName,
    },
    /// Print the next ten ticks of a schedule, or of a cron expression or an interval
    Preview(Preview),
    /// Make the schedules those of a file, and print what changes
    ///
    /// The file is TOML, with a table [schedules.NAME] for each schedule. Whether a schedule is paused is left
    /// as it is unless the file says so.
    Apply(Apply),
}

/// When the ticks are.
#[derive(Clone, Debug, Args)]
#[group(id = "ticks", multiple = true)]
pub(crate) struct When {
    /// A cron expression of five fields, or of six with seconds first, such as '30 2 * * *'
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "every")]
    pub(crate) cron: Option<String>,

    /// Instead: the time between two ticks, at least 1s
    #[arg(long, value_name = "DURATION")]
    pub(crate) every: Option<WireDuration>,

    /// The time zone of the cron expression, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron", conflicts_with = "every")]
    pub(crate) time_zone: Option<String>,

    /// No tick is before this time, such as 2026-01-31T09:30:00Z
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) start_at: Option<Timestamp>,

    /// No tick is after this time
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) end_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Set {
    /// The schedule: up to 64 characters of A-Z a-z 0-9 _ -
    pub(crate) name: ScheduleName,

    #[command(flatten)]
    pub(crate) when: When,

    /// The kind of its jobs
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: JobKind,

    /// Their payload: JSON, @ and the name of a JSON file, or - for standard input
    /// [default: null]
    #[arg(long, value_name = "JSON|@FILE|-", allow_negative_numbers = true)]
    pub(crate) payload: Option<Payload>,

    /// Their priority
    #[arg(long, value_name = "PRIORITY", default_value = "normal", value_parser = values::priority())]
    pub(crate) priority: Priority,

    /// How long one attempt may run [default: the handler's]
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<WireDuration>,

    /// How many attempts a job has at most, 1 to 100 [default: the handler's, else 5]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_attempts: Option<MaxAttempts>,

    /// What happens at a tick while the last job has not ended
    #[arg(long, value_enum, default_value = "allow")]
    pub(crate) overlap: OverlapWord,

    /// What happens to ticks that are more than a minute late: skip, once, or the number of the last ones
    /// that run
    #[arg(long, value_name = "skip|once|NUMBER", default_value = "once", value_parser = catch_up)]
    pub(crate) catch_up: CatchUp,

    /// Jobs run up to so much later than their ticks
    #[arg(long, value_name = "DURATION")]
    pub(crate) jitter: Option<WireDuration>,

    /// Store it paused
    #[arg(long)]
    pub(crate) paused: bool,

    /// What people should know
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,

    /// Only if it has this revision; 0 if there must be none
    #[arg(long, value_name = "NUMBER")]
    pub(crate) revision: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OverlapWord {
    /// Another job is submitted
    Allow,
    /// No job is submitted
    Skip,
    /// The last job is cancelled, and another one is submitted
    Replace,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Preview {
    /// The schedule
    #[arg(required_unless_present_any = ["cron", "every"], conflicts_with = "ticks")]
    pub(crate) name: Option<ScheduleName>,

    #[command(flatten)]
    pub(crate) when: When,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Apply {
    /// The file
    pub(crate) file: PathBuf,

    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Delete the schedules that are not in the file
    #[arg(long)]
    pub(crate) prune: bool,
}

fn catch_up(text: &str) -> Result<CatchUp, String> {
    match text {
        "skip" => Ok(CatchUp::Skip),
        "once" => Ok(CatchUp::Once),
        number => match number.parse() {
            Ok(number) if (1..=Schedule::MAX_CATCH_UP).contains(&number) => {
                Ok(CatchUp::All(number))
            }
            _ => Err(format!("skip, once or 1 to {}", Schedule::MAX_CATCH_UP)),
        },
    }
}

impl When {
    fn schedule(self, job: JobTemplate) -> Schedule {
        Schedule {
            cron: self.cron,
            every: self.every,
            time_zone: self.time_zone.unwrap_or_else(|| "UTC".to_owned()),
            job,
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            jitter: None,
            start_at: self.start_at,
            end_at: self.end_at,
            paused: false,
            note: None,
        }
    }

    /// A schedule of some jobs, for its ticks.
    pub(crate) fn of_any_jobs(self) -> anyhow::Result<Schedule> {
        Ok(self.schedule(template(&JobMessage::new("any".parse()?))?))
    }
}

impl Set {
    /// The name, and the schedule.
    pub(crate) fn schedule(self) -> anyhow::Result<(ScheduleName, Schedule)> {
        let job = JobMessage {
            payload: self.payload.as_ref().map(|payload| &*payload.0),
            timeout: self.timeout,
            max_attempts: self.max_attempts,
            priority: self.priority,
            ..JobMessage::new(self.kind)
        };
        let schedule = Schedule {
            overlap: match self.overlap {
                OverlapWord::Allow => Overlap::Allow,
                OverlapWord::Skip => Overlap::Skip,
                OverlapWord::Replace => Overlap::Replace,
            },
            catch_up: self.catch_up,
            jitter: self.jitter,
            paused: self.paused,
            note: self.note,
            ..self.when.schedule(template(&job)?)
        };
        Ok((self.name, schedule))
    }
}

fn template(job: &JobMessage<'_>) -> anyhow::Result<JobTemplate> {
    let text = RawValue::from_string(serde_json::to_string(job)?);
    Ok(JobTemplate::new(text.context("a job is JSON")?)?)
}
