//! The figures of a run, for people.

use std::collections::BTreeMap;
use std::fmt;

use common::{JobId, JobState};

use super::rules::{Repetition, Rule, Violation, seconds};
use super::story::Story;
use crate::chaos::fault::Fault;
use crate::chaos::history::{Micros, Way};

/// What is counted.
pub(in crate::chaos) struct Figures {
    acknowledged: BTreeMap<Way, usize>,
    ticks: usize,
    refused: usize,
    unanswered: usize,
    ends: BTreeMap<JobState, usize>,
    runs: usize,
    faults: BTreeMap<Fault, usize>,
    explained: BTreeMap<Fault, usize>,
    unexplained: usize,
    pub(in crate::chaos) lost: Vec<JobId>,
    stuck: usize,
    longest_stall: Micros,
}

impl Figures {
    pub(super) fn of(
        story: &Story<'_>,
        repetitions: &[Repetition],
        violations: &[Violation],
    ) -> Self {
        let jobs = || story.jobs.values();
        let mut acknowledged = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for job in jobs() {
            if let (Some(_), Some(submitted)) = (job.acknowledged, job.submitted) {
                *acknowledged.entry(submitted.way).or_default() += 1;
            }
            if let Some(end) = job.end() {
                *ends.entry(end.state).or_default() += 1;
            }
        }
        let mut faults = BTreeMap::new();
        for broken in &story.faults {
            *faults.entry(broken.fault).or_default() += 1;
        }
        let mut explained = BTreeMap::new();
        for (_, fault) in repetitions {
            if let Some(fault) = fault {
                *explained.entry(*fault).or_default() += 1;
            }
        }
        let broken = |wanted: &[Rule]| {
            let violations = violations.iter();
            let broken = violations.filter(|it| wanted.contains(&it.rule));
            broken.filter_map(|it| it.job).collect::<Vec<_>>()
        };
        let answered = |job: &&_| {
            let job: &super::story::JobStory<'_> = job;
            job.acknowledged.is_some() || job.refused
        };
        let submitted = jobs().filter(|job| job.submitted.is_some()).count();
        Self {
            acknowledged,
            ticks: jobs().filter(|job| job.tick.is_some()).count(),
            refused: jobs().filter(|job| job.refused).count(),
            unanswered: submitted - jobs().filter(answered).count(),
            ends,
            runs: jobs().map(|job| job.runs.len()).sum(),
            faults,
            explained,
            unexplained: repetitions.iter().filter(|(_, it)| it.is_none()).count(),
            lost: broken(&[Rule::Lost, Rule::TickWithoutJob]),
            stuck: broken(&[Rule::Stuck]).len(),
            longest_stall: longest_stall(story),
        }
    }
}

/// The longest time of the load in which no job ended.
fn longest_stall(story: &Story<'_>) -> Micros {
    let first = story.jobs.values().filter_map(|job| job.acknowledged).min();
    let (Some(first), Some(last)) = (first, story.load_ended) else {
        return 0;
    };
    let ends = story.jobs.values().filter_map(|job| Some(job.end()?.at));
    let mut times: Vec<_> = ends.filter(|at| (first..last).contains(at)).collect();
    times.extend([first, last]);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or(0)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.acknowledged.values().sum();
        let ways = self.acknowledged.iter();
        let ways = list(ways.map(|(way, count)| (format!("{way:?}").to_lowercase(), *count)));
        writeln!(
            f,
            "acknowledged   {} jobs: {ways}, schedules {}",
            total + self.ticks,
            self.ticks
        )?;
        writeln!(
            f,
            "not stored     {} whose key was held; {} without an answer",
            self.refused, self.unanswered
        )?;
        writeln!(f, "ends           {}", list(&self.ends))?;
        let faults: usize = self.faults.values().sum();
        writeln!(f, "faults         {faults}: {}", list(&self.faults))?;
        writeln!(f, "lost           {}", self.lost.len())?;
        writeln!(f, "stuck          {}", self.stuck)?;
        let explained: usize = self.explained.values().sum();
        writeln!(
            f,
            "runs           {}, of which repeated: {explained} explained{}{}, {} unexplained",
            self.runs,
            if explained > 0 { " by " } else { "" },
            list(&self.explained),
            self.unexplained
        )?;
        writeln!(f, "longest stall  {}", seconds(self.longest_stall))
    }
}

fn list<N: fmt::Display>(
    counts: impl IntoIterator<Item = (N, impl std::borrow::Borrow<usize>)>,
) -> String {
    let counts = counts.into_iter();
    let counts: Vec<_> = counts
        .map(|(name, count)| format!("{name} {}", count.borrow()))
        .collect();
    counts.join(", ")
}
