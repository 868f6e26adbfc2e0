//! The events of a history, sorted by the job that they are about.

use std::collections::BTreeMap;

use common::JobId;

use crate::chaos::fault::Fault;
use crate::chaos::history::{Event, FinalRecord, Micros, RunOutcome, RunStart, Submission};

/// All that a history says.
#[derive(Default)]
pub(super) struct Story<'a> {
    pub(super) jobs: BTreeMap<JobId, JobStory<'a>>,
    pub(super) faults: Vec<Broken<'a>>,
    pub(super) left: Vec<(&'a str, u64)>,
    pub(super) failed_services: Vec<(&'a str, &'a str)>,
    pub(super) cluster: bool,
    pub(super) load_ended: Option<Micros>,
}

/// A fault that was done.
pub(super) struct Broken<'a> {
    pub(super) from: Micros,
    pub(super) to: Micros,
    pub(super) fault: Fault,
    pub(super) target: &'a str,
}

/// What happened to one job.
#[derive(Default)]
pub(super) struct JobStory<'a> {
    pub(super) submitted: Option<&'a Submission>,
    pub(super) acknowledged: Option<Micros>,
    pub(super) refused: bool,
    /// The schedule and the time of its tick.
    pub(super) tick: Option<(&'a str, Micros)>,
    pub(super) cancel_requested: bool,
    pub(super) cancelled: Option<Micros>,
    /// In the order of their starts.
    pub(super) runs: Vec<Run<'a>>,
    pub(super) records: Vec<&'a FinalRecord>,
    /// What was found of it when the waiting was over.
    pub(super) unfinished: Option<&'a str>,
}

/// A run of a handler.
pub(super) struct Run<'a> {
    pub(super) start: &'a RunStart,
    pub(super) end: Option<(Micros, RunOutcome)>,
}

impl<'a> Story<'a> {
    pub(super) fn of(events: &'a [Event]) -> Self {
        let mut story = Self::default();
        let mut ends = BTreeMap::new();
        for event in events {
            match event {
                Event::Began { cluster, .. } => story.cluster = *cluster,
                Event::Submitted(submission) => {
                    // The first time counts if it was tried again.
                    story.job(submission.id).submitted.get_or_insert(submission);
                }
                Event::Acknowledged { at, id } => {
                    story.job(*id).acknowledged.get_or_insert(*at);
                }
                Event::Refused { id, .. } => story.job(*id).refused = true,
                Event::Tick { due, id, schedule } => story.job(*id).tick = Some((schedule, *due)),
                Event::RunStart(start) => {
                    story.job(start.id).runs.push(Run { start, end: None });
                }
                Event::RunEnd { at, run, outcome } => {
                    ends.insert(run.as_str(), (*at, *outcome));
                }
                Event::CancelRequested { id, .. } => story.job(*id).cancel_requested = true,
                Event::CancelAcknowledged { at, id } => {
                    story.job(*id).cancelled.get_or_insert(*at);
                }
                Event::Fault {
                    from,
                    to,
                    fault,
                    target,
                } => story.faults.push(Broken {
                    from: *from,
                    to: *to,
                    fault: *fault,
                    target,
                }),
                Event::LoadEnded { at } => story.load_ended = Some(*at),
                Event::Record(record) => story.job(record.id).records.push(record),
                Event::Unfinished { id, found } => story.job(*id).unfinished = Some(found),
                Event::Left { subjects, messages } => story.left.push((subjects, *messages)),
                Event::ServiceFailed { service, why } => story.failed_services.push((service, why)),
            }
        }
        for job in story.jobs.values_mut() {
            job.runs.sort_by_key(|run| run.start.at);
            for run in &mut job.runs {
                run.end = ends.get(run.start.run.as_str()).copied();
            }
        }
        story
    }

    fn job(&mut self, id: JobId) -> &mut JobStory<'a> {
        self.jobs.entry(id).or_default()
    }
}

impl JobStory<'_> {
    /// Whether somebody may rely on it: its submitter was told that it is stored, or it belongs to a tick.
    pub(super) fn is_promised(&self) -> bool {
        self.acknowledged.is_some() || self.tick.is_some()
    }

    /// Its end, as it was read first.
    pub(super) fn end(&self) -> Option<&FinalRecord> {
        self.records.first().copied()
    }

    /// Its kind, from whoever names it.
    pub(super) fn kind(&self) -> Option<&str> {
        let submitted = self.submitted.map(|job| job.kind.as_str());
        submitted.or_else(|| self.runs.first().map(|run| run.start.kind.as_str()))
    }
}

impl Broken<'_> {
    /// The end of the time in which it may show.
    pub(super) fn shows_until(&self) -> Micros {
        self.to + in_micros(self.fault.aftermath())
    }

    /// Whether it may show at some time between these.
    pub(super) fn shows_between(&self, from: Micros, to: Micros) -> bool {
        self.from <= to && self.shows_until() >= from
    }
}

pub(super) fn in_micros(duration: std::time::Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}
