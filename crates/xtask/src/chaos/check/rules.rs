//! What has to be true of every history.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use common::{JobId, JobState};

use super::story::{JobStory, Run, Story, in_micros};
use crate::chaos::fault::Fault;
use crate::chaos::history::{FinalRecord, Micros, RunOutcome, RunStart};
use crate::chaos::ledger::Kind;

/// A rule that every history has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) enum Rule {
    /// A job that was acknowledged has no end, and nothing is left of it.
    Lost,
    /// A job that was acknowledged has not ended, but its message or its record is there.
    Stuck,
    /// The end of a job was another one when it was read again.
    Contradicted,
    /// A job ended as its handler and its options do not allow.
    WrongEnd,
    /// A job succeeded, and no run of it did.
    SucceededWithoutRun,
    /// A job was run, and succeeded, long after its cancellation was acknowledged.
    CancelledButSucceeded,
    /// A job ran more often than its failures and the faults explain.
    UnexplainedRun,
    /// A run began after the job had ended.
    RanAfterItsEnd,
    /// A run began before the time of the job.
    Early,
    /// A run began after the deadline of the job.
    AfterDeadline,
    /// A tick of a schedule has no job.
    TickWithoutJob,
    /// A job of a schedule belongs to no tick.
    JobWithoutTick,
    /// Two jobs held a key at the same time.
    KeyHeldTwice,
    /// A job that nobody has submitted was run.
    Unknown,
    /// Messages were left in the queues.
    QueueNotEmpty,
    /// A service ended by itself, or not well.
    ServiceFailed,
    /// The history stops before the end of the run.
    Incomplete,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lost => "lost",
            Self::Stuck => "stuck",
            Self::Contradicted => "contradicted end",
            Self::WrongEnd => "wrong end",
            Self::SucceededWithoutRun => "succeeded without a run",
            Self::CancelledButSucceeded => "cancelled, but succeeded",
            Self::UnexplainedRun => "unexplained run",
            Self::RanAfterItsEnd => "ran after its end",
            Self::Early => "ran before its time",
            Self::AfterDeadline => "ran after its deadline",
            Self::TickWithoutJob => "tick without a job",
            Self::JobWithoutTick => "job without a tick",
            Self::KeyHeldTwice => "key held twice",
            Self::Unknown => "nobody has submitted it",
            Self::QueueNotEmpty => "queue not empty",
            Self::ServiceFailed => "service failed",
            Self::Incomplete => "incomplete history",
        })
    }
}

/// A rule that a history breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Violation {
    pub(in crate::chaos) rule: Rule,
    pub(in crate::chaos) job: Option<JobId>,
    pub(in crate::chaos) text: String,
}

/// The clocks of consumers and server are the same, but consumers know the server's by the millisecond.
const CLOCK: Micros = 50_000;

/// A job waits at most a second in a consumer after it was decided that it may run; its program has to start, too.
const IN_CONSUMER: Micros = 5_000_000;

/// So long a cancellation may take when nothing is broken.
const CANCELLATION: Micros = 10_000_000;

/// So long after a fault a cancellation may still wait: for the ack wait of whoever was to carry it out.
const CANCELLATION_AFTER_FAULT: Duration = Duration::from_secs(20);

/// A run beyond the first that no failure explains, and the fault that does.
pub(super) type Repetition = (JobId, Option<Fault>);

/// Checks each job by itself.
pub(super) fn of_each_job(story: &Story<'_>) -> (Vec<Violation>, Vec<Repetition>) {
    let mut found = Vec::new();
    let mut repetitions = Vec::new();
    for (id, job) in &story.jobs {
        let mut complain = |rule, text: String| {
            found.push(Violation {
                rule,
                job: Some(*id),
                text,
            });
        };
        has_one_end(job, &mut complain);
        end_is_possible(job, &mut complain);
        keeps_its_times(story, job, &mut complain);
        stays_cancelled(story, job, &mut complain);
        for fault in repeated_runs(story, job) {
            if fault.is_none() {
                complain(Rule::UnexplainedRun, runs(job));
            }
            repetitions.push((*id, fault));
        }
        if job.submitted.is_none() && job.tick.is_none() && !job.runs.is_empty() {
            let rule = if job.kind() == Some(Kind::Tick.name()) {
                Rule::JobWithoutTick
            } else {
                Rule::Unknown
            };
            complain(rule, runs(job));
        }
    }
    (found, repetitions)
}

fn has_one_end(job: &JobStory<'_>, complain: &mut impl FnMut(Rule, String)) {
    let Some(end) = job.end() else {
        let nothing = job.unfinished.is_none_or(str::is_empty);
        if let (Some((schedule, _)), true) = (job.tick, nothing) {
            complain(Rule::TickWithoutJob, format!("of the schedule {schedule}"));
        } else if job.is_promised() && nothing {
            complain(Rule::Lost, runs(job));
        } else if let Some(state) = job.unfinished.filter(|state| !state.is_empty()) {
            complain(Rule::Stuck, format!("it is {state}; {}", runs(job)));
        }
        return;
    };
    let what = |record: &FinalRecord| (record.state, record.at, record.attempt, record.run);
    if let Some(other) = job.records.iter().find(|other| what(other) != what(end)) {
        let text = format!("{} at first, later {}: {other:?}", end.state, other.state);
        complain(Rule::Contradicted, text);
    } else if job.unfinished.is_some() || (job.is_promised() && job.records.len() < 2) {
        let text = format!("{} at first, later nothing", end.state);
        complain(Rule::Contradicted, text);
    }
}

fn end_is_possible(job: &JobStory<'_>, complain: &mut impl FnMut(Rule, String)) {
    let Some(end) = job.end() else {
        return;
    };
    let kind = job.kind().unwrap_or("of a schedule");
    let always_fails = kind == Kind::Fail.name();
    let deadline = job.submitted.and_then(|job| job.deadline);
    let possible = match end.state {
        JobState::Succeeded => !always_fails,
        JobState::Dead => always_fails,
        JobState::Cancelled => job.cancel_requested,
        JobState::Expired => deadline.is_some_and(|deadline| deadline < end.at + CLOCK),
        _ => false,
    };
    if !possible {
        let reason = end.reason.map_or("", |reason| reason.as_str());
        let text = format!("{} {reason}, kind {kind}; {}", end.state, runs(job));
        complain(Rule::WrongEnd, text);
    }
    let succeeded = |run: &Run<'_>| matches!(run.end, Some((_, RunOutcome::Succeeded)));
    if end.state == JobState::Succeeded && !job.runs.iter().any(succeeded) {
        complain(Rule::SucceededWithoutRun, runs(job));
    }
}

/// The consumer did not run for a while between these times.
fn paused(story: &Story<'_>, consumer: &str, from: Micros, to: Micros) -> bool {
    story.faults.iter().any(|broken| {
        broken.fault == Fault::PauseConsumer
            && broken.target == consumer
            && broken.shows_between(from, to)
    })
}

fn keeps_its_times(story: &Story<'_>, job: &JobStory<'_>, complain: &mut impl FnMut(Rule, String)) {
    let run_at = job.submitted.and_then(|job| job.run_at);
    let not_before = run_at.or(job.tick.map(|(_, due)| due));
    let deadline = job.submitted.and_then(|job| job.deadline);
    for run in &job.runs {
        let (at, consumer) = (run.start.at, run.start.consumer.as_str());
        let late = |than: Micros| at > than + IN_CONSUMER && !paused(story, consumer, than, at);
        if let Some(time) = not_before
            && at + CLOCK < time
        {
            complain(Rule::Early, format!("by {}", seconds(time - at)));
        }
        if let Some(deadline) = deadline
            && late(deadline)
        {
            complain(
                Rule::AfterDeadline,
                format!("by {}", seconds(at - deadline)),
            );
        }
        // In a cluster a follower may not know the end of a job that is delivered again at once.
        let election = |end: Micros| {
            let mut faults = story.faults.iter();
            story.cluster
                && faults.any(|it| it.fault.touches("", consumer) && it.shows_between(end, at))
        };
        if let Some(end) = job.end()
            && late(end.at)
            && !election(end.at)
        {
            let text = format!("by {}; {}", seconds(at - end.at), runs(job));
            complain(Rule::RanAfterItsEnd, text);
        }
    }
}

fn stays_cancelled(story: &Story<'_>, job: &JobStory<'_>, complain: &mut impl FnMut(Rule, String)) {
    let (Some(cancelled), Some(end)) = (job.cancelled, job.end()) else {
        return;
    };
    let succeeded = |run: &&Run<'_>| matches!(run.end, Some((_, RunOutcome::Succeeded)));
    let Some(run) = job.runs.iter().rev().find(succeeded) else {
        return;
    };
    let quiet = quiet_time(story, cancelled, run.start.at);
    if end.state == JobState::Succeeded && quiet > CANCELLATION {
        let text = format!(
            "its run began {} after the request was stored, of which nothing was broken for {}",
            seconds(run.start.at - cancelled),
            seconds(quiet)
        );
        complain(Rule::CancelledButSucceeded, text);
    }
}

/// How long between these times no fault could delay a cancellation.
fn quiet_time(story: &Story<'_>, from: Micros, to: Micros) -> Micros {
    let faults = story.faults.iter();
    let mut broken: Vec<_> = faults
        .map(|broken| (broken.from, broken.to + in_micros(CANCELLATION_AFTER_FAULT)))
        .collect();
    broken.sort_unstable();
    let (mut quiet, mut since) = (0, from);
    for (start, end) in broken {
        quiet += (start.min(to) - since).max(0);
        since = since.max(end);
    }
    quiet + (to - since).max(0)
}

/// For each run beyond the first that does not follow a failed one: the fault that explains it.
///
/// A run is repeated because an earlier one was lost with its consumer or its connection, or because the
/// consumer of the later one acted on what it had seen before it was stopped.
fn repeated_runs(story: &Story<'_>, job: &JobStory<'_>) -> Vec<Option<Fault>> {
    let mut retries = 0;
    let mut repeated = Vec::new();
    for (index, run) in job.runs.iter().enumerate().skip(1) {
        let start = run.start.at;
        let failed = |earlier: &&Run<'_>| matches!(earlier.end, Some((at, RunOutcome::Failed)) if at <= start);
        if job.runs[..index].iter().filter(failed).count() > retries {
            retries += 1;
            continue;
        }
        let explains = |earlier: &Run<'_>| {
            let mut faults = story.faults.iter();
            faults.find(|broken| {
                let touches =
                    |run: &Run<'_>| broken.fault.touches(broken.target, &run.start.consumer);
                (touches(earlier) || touches(run)) && broken.shows_between(earlier.start.at, start)
            })
        };
        let fault = job.runs[..index].iter().rev().find_map(explains);
        repeated.push(fault.map(|broken| broken.fault));
    }
    repeated
}

/// Two jobs of one key: each held it at least from its acknowledgement to its end.
pub(super) fn of_keys(story: &Story<'_>) -> Vec<Violation> {
    let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, job) in &story.jobs {
        if let (Some(submitted), Some(from)) = (job.submitted, job.acknowledged)
            && let Some(key) = &submitted.key
        {
            let to = job.end().map_or(Micros::MAX, |end| end.at);
            let held = by_key.entry((submitted.kind.as_str(), key.as_str()));
            held.or_default().push((from, to, *id));
        }
    }
    let mut found = Vec::new();
    for ((_, key), mut held) in by_key {
        held.sort_unstable();
        let mut last: Option<(Micros, JobId)> = None;
        for (from, to, id) in held {
            if let Some((until, other)) = last
                && from + CLOCK < until.min(to)
            {
                found.push(Violation {
                    rule: Rule::KeyHeldTwice,
                    job: Some(id),
                    text: format!(
                        "{key}, which {other} held for {} more",
                        seconds(until - from)
                    ),
                });
            }
            if last.is_none_or(|(until, _)| to > until) {
                last = Some((to, id));
            }
        }
    }
    found
}

/// What is left when all is over.
pub(super) fn of_the_whole(story: &Story<'_>) -> Vec<Violation> {
    let violation = |rule, text| Violation {
        rule,
        job: None,
        text,
    };
    let left = story.left.iter().filter(|(_, messages)| *messages > 0);
    let left = left.map(|(subjects, messages)| {
        violation(
            Rule::QueueNotEmpty,
            format!("{messages} messages on {subjects}"),
        )
    });
    let failed = story
        .failed_services
        .iter()
        .map(|(service, why)| violation(Rule::ServiceFailed, format!("{service}: {why}")));
    let mut found: Vec<_> = left.chain(failed).collect();
    if story.left.is_empty() || story.load_ended.is_none() {
        let text = "the end of the load, or what was left in the queues, is missing";
        found.push(violation(Rule::Incomplete, text.to_owned()));
    }
    found
}

/// The runs of a job, for people.
fn runs(job: &JobStory<'_>) -> String {
    let runs = job.runs.iter().map(|run| {
        let end = match run.end {
            Some((at, outcome)) => format!("{outcome:?} after {}", seconds(at - run.start.at)),
            None => "no end".to_owned(),
        };
        let RunStart {
            at,
            attempt,
            consumer,
            ..
        } = run.start;
        format!("attempt {attempt} by {consumer} at {at}: {end}")
    });
    let runs: Vec<_> = runs.collect();
    if runs.is_empty() {
        "no runs".to_owned()
    } else {
        runs.join("; ")
    }
}

pub(super) fn seconds(micros: Micros) -> String {
    format!("{:.2} s", micros as f64 / 1e6)
}
