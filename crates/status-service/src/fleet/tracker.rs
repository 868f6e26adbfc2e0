use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use common::{ConsumerState, Counts, RunTime};

use super::changes::{Answering, Change, ConsumerEvent, RoundChanges};
use super::departed::Departed;
use super::last_round::{LastRound, longer};
use super::member::{Member, MemberPresence};
use super::runs::{FleetRuns, MemberRuns};
use super::summary::{Progress, Spread, Summary};
use crate::asking::{InstanceId, Round, RoundEnd, StatusAnswer};
use crate::counts::{difference, larger};

/// The most members that do not answer. If there are more, those that were silent for longest are
/// gone at once.
const MAX_SILENT: usize = 10_000;

/// Knows all consumers that were ever heard of, and adds up their work.
///
/// The totals never go down: each instance counts with the largest counts that it ever answered, and
/// these stay when it is gone.
#[derive(Debug)]
pub(crate) struct FleetTracker {
    gone_after: Duration,
    members: BTreeMap<InstanceId, Member>,
    departed: Departed,
    /// When the last round was asked; `None` before the first.
    last: Option<Instant>,
    /// Jobs that have ended since the last round.
    processed: u64,
    /// Whether consumers answer, as it was reported last; `None` before the first report.
    answering: Option<Reported>,
    /// The summary of the last round; `None` before the first.
    last_summary: Option<Summary>,
    last_round: LastRound,
    runs: FleetRuns,
}

/// What was reported about whether consumers answer.
#[derive(Clone, Copy, Debug)]
enum Reported {
    /// None has answered since the first round.
    NotYet { since: Instant },
    /// None does.
    No,
    /// Some do; or it was never reported that none does.
    Yes,
}

impl FleetTracker {
    /// An empty fleet. A consumer that has not answered for `gone_after` is gone.
    pub(crate) fn new(gone_after: Duration) -> Self {
        Self {
            gone_after,
            members: BTreeMap::new(),
            departed: Departed::default(),
            last: None,
            processed: 0,
            answering: None,
            last_summary: None,
            last_round: LastRound::default(),
            runs: FleetRuns::default(),
        }
    }

    pub(super) fn members(&self) -> &BTreeMap<InstanceId, Member> {
        &self.members
    }

    pub(super) fn last_round(&self) -> &LastRound {
        &self.last_round
    }

    /// The consumers that the next round should wait for: all but those that are missing. A missing
    /// one is among them if it answered late, unless it then announced that it stops.
    pub(crate) fn awaited(&self) -> BTreeSet<InstanceId> {
        let awaited = |member: &Member| {
            if member.late {
                member.state != ConsumerState::Draining
            } else {
                member.presence != MemberPresence::Missing
            }
        };
        self.members
            .iter()
            .filter(|(_, member)| awaited(member))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// How jobs have ended, in all consumers that were ever heard of.
    pub(crate) fn totals(&self) -> Counts {
        let mut totals = self.departed.sum();
        for member in self.members.values() {
            totals += difference(&member.counts, &member.already_departed);
        }
        totals
    }

    /// Adds an answer that came after its round. The consumer is alive and its counts are right, but
    /// it has not answered in time.
    pub(crate) fn add_late_answer(&mut self, answer: &StatusAnswer, now: Instant) {
        self.update_member(answer, now).late = true;
    }

    /// Adds a round, and returns what has changed.
    ///
    /// If `settling` is set, the connection was restored a moment ago. Consumers may not have
    /// reconnected yet, so none is reported as missing.
    pub(crate) fn add_round(&mut self, round: &Round, settling: bool) -> RoundChanges {
        let now = round.asked_at;
        let mut events = Vec::new();
        for answer in &round.late {
            self.add_late_answer(answer, now);
        }
        for member in self.members.values_mut() {
            member.answered = false;
        }
        let mut shares = Vec::new();
        for answer in &round.answers {
            let member = self.update_member(answer, now);
            let mut report =
                |change| events.push(ConsumerEvent::new(&answer.id, &answer.host, change));
            match member.presence {
                MemberPresence::Present => {}
                MemberPresence::Missing | MemberPresence::Returned => report(Change::Back),
                MemberPresence::New => report(Change::Joined {
                    version: answer.version.clone(),
                }),
            }
            if answer.dropped > member.dropped {
                report(Change::Dropped {
                    messages: answer.dropped - member.dropped,
                });
                member.dropped = answer.dropped;
            }
            let processed = member.counts.processed;
            if let Some(before) = member.processed_before.replace(processed) {
                shares.push(processed - before);
            }
            member.presence = MemberPresence::Present;
            member.answered = true;
            (member.late, member.late_reported) = (false, false);
        }
        // Consumers whose answers were not read may have answered.
        let conclusive = !settling && round.end != RoundEnd::Truncated;
        self.classify_silent(now, conclusive, &mut events);
        self.limit_silent(now, &mut events);
        events.sort_by(|a, b| a.id.cmp(&b.id));
        self.last_round = LastRound::new(now, &round.answers, Spread::of(&shares), &mut self.runs);
        let summary = self.summary(round, &shares);
        let last = self.last_summary.replace(summary.clone());
        RoundChanges {
            events,
            answering: self.answering_changed(now, !round.answers.is_empty(), conclusive),
            news: last.is_none_or(|last| summary.is_news_after(&last)),
            summary,
        }
    }

    /// Updates the member that gave this answer, in time or late, and adds it if it is new.
    fn update_member(&mut self, answer: &StatusAnswer, now: Instant) -> &mut Member {
        let Self {
            members,
            departed,
            last,
            processed,
            runs,
            ..
        } = self;
        // Whether it is new and worked before the last round already.
        let mut found_late = false;
        let member = members.entry(answer.id.clone()).or_insert_with(|| {
            let counted = departed.take_back(&answer.id);
            let running = answer.uptime.saturating_sub(answer.took);
            let since_last = last.map(|last| now.duration_since(last));
            found_late = counted.is_none() && since_last.is_some_and(|since| running > since);
            let is_new = counted.is_none() && since_last.is_some_and(|since| running <= since);
            Member {
                host: answer.host.clone(),
                version: answer.version.clone(),
                presence: if counted.is_some() {
                    MemberPresence::Returned
                } else {
                    MemberPresence::New
                },
                state: answer.state,
                concurrency: answer.concurrency,
                in_flight: answer.in_flight,
                waiting: answer.waiting,
                run_ms: RunTime::default(),
                runs: is_new.then(MemberRuns::none),
                took: answer.took,
                // What it had dropped before was reported before it was gone.
                dropped: counted.map_or(0, |_| answer.dropped),
                counts: counted.unwrap_or_default(),
                already_departed: counted.unwrap_or_default(),
                heard: now,
                processed_before: None,
                answered: false,
                late: false,
                late_reported: false,
            }
        });
        let counts = larger(&member.counts, &answer.counts);
        if !found_late {
            *processed = processed.saturating_add(counts.processed - member.counts.processed);
        }
        member.counts = counts;
        member.heard = now;
        member.state = answer.state;
        member.concurrency = answer.concurrency;
        member.took = answer.took;
        let run_ms = answer.kinds.iter().map(|kind| kind.run_ms);
        member.run_ms = run_ms.fold(RunTime::default(), longer);
        let ran = MemberRuns::of(answer);
        runs.add(member.runs.as_ref(), &ran);
        member.runs = Some(ran);
        member.in_flight = answer.in_flight;
        member.waiting = answer.waiting;
        member
    }

    /// Decides what happened to members that did not answer. If the round is not `conclusive`, only
    /// restarts are certain.
    fn classify_silent(&mut self, now: Instant, conclusive: bool, events: &mut Vec<ConsumerEvent>) {
        let silent = self.members.iter().filter(|(_, member)| !member.answered);
        let silent: Vec<_> = silent.map(|(id, _)| id.clone()).collect();
        for id in silent {
            let restarted = self.has_restarted(&id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.processed_before = None;
            let silent = now.saturating_duration_since(member.heard);
            let late = std::mem::take(&mut member.late);
            let (in_flight, waiting) = (member.in_flight, member.waiting);
            let processed = member.counts.processed;
            let announced = member.state == ConsumerState::Draining;
            let change = if restarted {
                Change::Restarted {
                    in_flight,
                    waiting,
                    announced,
                }
            } else if !conclusive {
                continue;
            } else if announced {
                Change::Left { processed }
            } else if member.presence != MemberPresence::Missing {
                member.presence = MemberPresence::Missing;
                Change::Missing {
                    silent,
                    in_flight,
                    waiting,
                }
            } else if late && !std::mem::replace(&mut member.late_reported, true) {
                Change::TooLate
            } else if silent >= self.gone_after {
                Change::Gone { silent, processed }
            } else {
                continue;
            };
            events.push(ConsumerEvent::new(&id, &member.host, change.clone()));
            if !matches!(change, Change::Missing { .. } | Change::TooLate) {
                self.remove(&id);
            }
            if restarted {
                // The restart stands for the new instance's joining too.
                events.retain(|event| {
                    event.id.consumer != id.consumer
                        || !matches!(event.change, Change::Joined { .. })
                });
            }
        }
    }

    /// Whether a later instance of the same consumer has answered.
    fn has_restarted(&self, id: &InstanceId) -> bool {
        self.members
            .range((Bound::Excluded(id), Bound::Unbounded))
            .take_while(|(other, _)| other.consumer == id.consumer)
            .any(|(_, member)| member.answered)
    }

    /// Removes silent members if there are too many. Anybody may answer under any name, and memory must
    /// stay bounded.
    fn limit_silent(&mut self, now: Instant, events: &mut Vec<ConsumerEvent>) {
        let silent = self.members.iter().filter(|(_, member)| !member.answered);
        let mut silent: Vec<_> = silent
            .map(|(id, member)| (member.heard, id.clone()))
            .collect();
        let too_many = silent.len().saturating_sub(MAX_SILENT);
        if too_many == 0 {
            return;
        }
        silent.sort();
        for (heard, id) in silent.into_iter().take(too_many) {
            if let Some(member) = self.members.get(&id) {
                let change = Change::Gone {
                    silent: now.saturating_duration_since(heard),
                    processed: member.counts.processed,
                };
                events.push(ConsumerEvent::new(&id, &member.host, change));
            }
            self.remove(&id);
        }
    }

    /// Removes a member; its counts stay in the totals.
    fn remove(&mut self, id: &InstanceId) {
        if let Some((id, member)) = self.members.remove_entry(id) {
            self.departed
                .add(id, member.counts, &member.already_departed);
        }
    }

    /// Whether consumers answer, if that is to be reported; `None` if it is not.
    fn answering_changed(
        &mut self,
        now: Instant,
        answers: bool,
        conclusive: bool,
    ) -> Option<Answering> {
        if answers {
            return match self.answering.replace(Reported::Yes) {
                Some(Reported::NotYet { .. }) => Some(Answering::Yes),
                Some(Reported::No) => Some(Answering::Again),
                Some(Reported::Yes) | None => None,
            };
        }
        if !conclusive {
            return None;
        }
        match self.answering {
            None => {
                self.answering = Some(Reported::NotYet { since: now });
                Some(Answering::NotYet)
            }
            Some(Reported::NotYet { since })
                if now.saturating_duration_since(since) < self.gone_after =>
            {
                None
            }
            Some(Reported::No) => None,
            Some(Reported::NotYet { .. } | Reported::Yes) => {
                self.answering = Some(Reported::No);
                Some(Answering::No)
            }
        }
    }

    fn summary(&mut self, round: &Round, shares: &[u64]) -> Summary {
        let now = round.asked_at;
        let processed = std::mem::take(&mut self.processed);
        let progress = self.last.replace(now).map(|last| Progress {
            processed,
            elapsed: now.saturating_duration_since(last),
        });
        let in_state = |state| {
            let answers = round.answers.iter();
            answers.filter(|answer| answer.state == state).count()
        };
        let sum = |number: fn(&StatusAnswer) -> u64| {
            let numbers = round.answers.iter().map(number);
            numbers.fold(0, u64::saturating_add)
        };
        Summary {
            consumers: round.answers.len(),
            running: in_state(ConsumerState::Running),
            saturated: in_state(ConsumerState::Saturated),
            draining: in_state(ConsumerState::Draining),
            missing: self.members.values().filter(|it| !it.answered).count(),
            in_flight: sum(|answer| answer.in_flight.into()),
            waiting: sum(|answer| answer.waiting),
            totals: self.totals(),
            progress,
            spread: Spread::of(shares),
            round_trip: round
                .answers
                .iter()
                .map(|answer| answer.took)
                .max()
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
