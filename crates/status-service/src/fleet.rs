mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use common::{ConsumerState, Counts, RunTime};

use told::LastRound;

use crate::counts::{above, larger};
use crate::folded::Folded;
use crate::news::{Change, Event, News, Since, Spread, Summary};
use crate::{Answer, Ended, InstanceId, Round};

/// The most consumers that are kept though they do not answer; when there are more, those that
/// were silent for longest are gone sooner.
const MAX_SILENT: usize = 10_000;

/// All consumers that were ever heard of, and what they have done together.
///
/// The totals never go down: each instance counts with the most that it ever answered, and when
/// it is gone its counts stay.
#[derive(Debug)]
pub struct Fleet {
    gone_after: Duration,
    members: BTreeMap<InstanceId, Member>,
    folded: Folded,
    last: Option<Instant>,
    /// Jobs that came to an end since the last round.
    new: u64,
    /// Whether anybody answers, as it was told.
    answering: Option<bool>,
    told: LastRound,
}

/// One life of a consumer.
#[derive(Debug)]
struct Member {
    host: String,
    version: String,
    presence: Presence,
    state: ConsumerState,
    concurrency: u32,
    in_flight: u32,
    waiting: u64,
    dropped: u64,
    run_ms: RunTime,
    took: Duration,
    /// The most that it ever answered.
    counts: Counts,
    /// What of it is in the folded sum already.
    already: Counts,
    heard: Instant,
    /// What it had processed when it answered the round before, if it did.
    before: Option<u64>,
    answered: bool,
    /// An answer came after its round.
    late: bool,
    late_told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// It was never in time yet.
    New,
    /// It was gone.
    Returned,
    /// It answers.
    Present,
    /// It no longer answers, and this was told.
    Missing,
}

impl Fleet {
    /// A fleet of which nothing is known yet; a consumer that was not heard for `gone_after` is
    /// gone.
    #[must_use]
    pub fn new(gone_after: Duration) -> Self {
        Self {
            gone_after,
            members: BTreeMap::new(),
            folded: Folded::default(),
            last: None,
            new: 0,
            answering: None,
            told: LastRound::default(),
        }
    }

    /// The consumers for which the next round should wait.
    ///
    /// Among them is one that was missing but was heard late; not among them is one whose last
    /// word it was that it stops.
    #[must_use]
    pub fn awaited(&self) -> BTreeSet<InstanceId> {
        let awaited = |member: &Member| {
            if member.late {
                member.state != ConsumerState::Draining
            } else {
                member.presence != Presence::Missing
            }
        };
        self.members
            .iter()
            .filter(|(_, member)| awaited(member))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// How jobs have ended, in all consumers that were ever heard of.
    #[must_use]
    pub fn totals(&self) -> Counts {
        let mut totals = self.folded.sum();
        for member in self.members.values() {
            totals += above(&member.counts, &member.already);
        }
        totals
    }

    /// Takes in an answer that came after its round: the consumer is alive and its counts are
    /// true, but it has not answered the round that goes on now.
    pub fn hear_late(&mut self, answer: &Answer, now: Instant) {
        self.take_in(answer, now).late = true;
    }

    /// Takes in a round.
    ///
    /// When `settling`, nobody is called missing who did not answer: the connection was just
    /// restored, and the consumers may not have theirs yet.
    pub fn absorb(&mut self, round: &Round, settling: bool) -> News {
        let now = round.asked_at;
        let mut events = Vec::new();
        for answer in &round.late {
            self.hear_late(answer, now);
        }
        for member in self.members.values_mut() {
            member.answered = false;
        }
        let mut shares = Vec::new();
        for answer in &round.answers {
            let member = self.take_in(answer, now);
            let mut tell = |change| events.push(Event::new(&answer.id, &answer.host, change));
            match member.presence {
                Presence::Present => {}
                Presence::Missing | Presence::Returned => tell(Change::Back),
                Presence::New => tell(Change::Joined {
                    version: answer.version.clone(),
                }),
            }
            if answer.dropped > member.dropped {
                tell(Change::Dropped {
                    messages: answer.dropped - member.dropped,
                });
                member.dropped = answer.dropped;
            }
            let processed = member.counts.processed;
            if let Some(before) = member.before.replace(processed) {
                shares.push(processed - before);
            }
            member.presence = Presence::Present;
            member.answered = true;
            (member.late, member.late_told) = (false, false);
        }
        // After a cut it is not known who else would have answered.
        let judge = !settling && round.ended != Ended::Cut;
        self.judge_silent(now, judge, &mut events);
        self.bound_silent(now, &mut events);
        events.sort_by(|a, b| a.id.cmp(&b.id));
        self.told = LastRound::new(now, &round.answers, Spread::of(&shares));
        News {
            events,
            answering: self.answering_changed(!round.answers.is_empty(), judge),
            summary: self.summary(round, &shares),
        }
    }

    /// What an answer tells, in time or not.
    fn take_in(&mut self, answer: &Answer, now: Instant) -> &mut Member {
        let Self {
            members,
            folded,
            last,
            new,
            ..
        } = self;
        let mut found_old = false;
        let member = members.entry(answer.id.clone()).or_insert_with(|| {
            let recalled = folded.recall(&answer.id);
            // It did its work before the last round, but was not heard then.
            let running = answer.uptime.saturating_sub(answer.took);
            found_old =
                recalled.is_none() && last.is_some_and(|last| running > now.duration_since(last));
            Member {
                host: answer.host.clone(),
                version: answer.version.clone(),
                presence: if recalled.is_some() {
                    Presence::Returned
                } else {
                    Presence::New
                },
                state: answer.state,
                concurrency: answer.concurrency,
                in_flight: answer.in_flight,
                waiting: answer.waiting,
                run_ms: RunTime::default(),
                took: answer.took,
                // What it had lost before was told before it was gone.
                dropped: recalled.map_or(0, |_| answer.dropped),
                counts: recalled.unwrap_or_default(),
                already: recalled.unwrap_or_default(),
                heard: now,
                before: None,
                answered: false,
                late: false,
                late_told: false,
            }
        });
        let counts = larger(&member.counts, &answer.counts);
        if !found_old {
            *new = new.saturating_add(counts.processed - member.counts.processed);
        }
        member.counts = counts;
        member.heard = now;
        member.state = answer.state;
        member.concurrency = answer.concurrency;
        member.took = answer.took;
        let runs = answer.kinds.iter().map(|kind| kind.run_ms);
        member.run_ms = runs.fold(RunTime::default(), told::worse);
        member.in_flight = answer.in_flight;
        member.waiting = answer.waiting;
        member
    }

    /// What became of those that did not answer.
    fn judge_silent(&mut self, now: Instant, judge: bool, events: &mut Vec<Event>) {
        let silent = self.members.iter().filter(|(_, member)| !member.answered);
        let silent: Vec<_> = silent.map(|(id, _)| id.clone()).collect();
        for id in silent {
            let restarted = self.lives_again(&id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.before = None;
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
            } else if !judge {
                continue;
            } else if announced {
                Change::Left { processed }
            } else if member.presence != Presence::Missing {
                member.presence = Presence::Missing;
                Change::Missing {
                    silent,
                    in_flight,
                    waiting,
                }
            } else if late && !std::mem::replace(&mut member.late_told, true) {
                Change::TooLate
            } else if silent >= self.gone_after {
                Change::Gone { silent, processed }
            } else {
                continue;
            };
            events.push(Event::new(&id, &member.host, change.clone()));
            if !matches!(change, Change::Missing { .. } | Change::TooLate) {
                self.fold(&id);
            }
            if restarted {
                // One line says both.
                events.retain(|event| {
                    event.id.consumer != id.consumer
                        || !matches!(event.change, Change::Joined { .. })
                });
            }
        }
    }

    /// Whether a later life of the same consumer has answered.
    fn lives_again(&self, id: &InstanceId) -> bool {
        self.members
            .range((Bound::Excluded(id), Bound::Unbounded))
            .take_while(|(other, _)| other.consumer == id.consumer)
            .any(|(_, member)| member.answered)
    }

    /// Names are cheap to invent: the fleet stays small whoever answers, and how often.
    fn bound_silent(&mut self, now: Instant, events: &mut Vec<Event>) {
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
                events.push(Event::new(&id, &member.host, change));
            }
            self.fold(&id);
        }
    }

    fn fold(&mut self, id: &InstanceId) {
        if let Some((id, member)) = self.members.remove_entry(id) {
            self.folded.fold(id, member.counts, &member.already);
        }
    }

    fn answering_changed(&mut self, answers: bool, judge: bool) -> Option<bool> {
        let told = self.answering;
        if told == Some(answers) || !answers && !judge {
            return None;
        }
        self.answering = Some(answers);
        // That consumers answer is worth a line only after it was said that none does.
        (told.is_some() || !answers).then_some(answers)
    }

    fn summary(&mut self, round: &Round, shares: &[u64]) -> Summary {
        let now = round.asked_at;
        let processed = std::mem::take(&mut self.new);
        let since = self.last.replace(now).map(|last| Since {
            processed,
            elapsed: now.saturating_duration_since(last),
        });
        let in_state = |state| {
            let answers = round.answers.iter();
            answers.filter(|answer| answer.state == state).count()
        };
        let sum = |number: fn(&Answer) -> u64| {
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
            since,
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
