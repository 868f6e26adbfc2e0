//! What each step does.

use crate::case::Keep;
use crate::consumer::{Consumer, Duty, Lease, Operator, Step};
use crate::guard::Guard;
use crate::protocol::{Action, Protocol, Sent, State, is_alive};
use crate::server::{
    CancelRequest, Delivery, JobState, Message, Older, Place, Record, Submission, Wrong,
};

/// What to do with a delivered message, as in `worker/src/decide.rs`.
enum Verdict {
    Run {
        failures: u8,
    },
    /// It has ended, or a message of another run has replaced this one.
    Done,
    PutOff {
        run: u8,
    },
    Exhausted {
        failures: u8,
    },
}

/// The result of writing a record, as in `worker/src/store/mod.rs`.
#[derive(PartialEq, Eq)]
enum Written {
    Yes,
    Ended,
    Superseded,
}

impl Protocol {
    pub(crate) fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Submit { job, sent } => self.submit(state, job, sent),
            Action::Take {
                consumer,
                message,
                follower,
            } => self.take(state, consumer, message, follower),
            Action::Announce { consumer } => self.announce(state, consumer),
            Action::Return {
                consumer,
                succeeded,
            } => self.hand_back(state, consumer, succeeded),
            Action::GiveBack { consumer } => self.give_back(state, consumer),
            Action::Settle { consumer, .. } => self.settle(state, consumer),
            Action::TakeRequest { consumer, job } => self.take_request(state, consumer, job),
            Action::TakeAdvisory { consumer, message } => {
                take_advisory(state, consumer, message);
            }
            Action::CarryOut { consumer, duty } => {
                state.consumers[consumer].duty = self.carry_out(state, duty);
            }
            Action::Cancel { job } => {
                state.left.cancels -= 1;
                state.server.job_mut(job).cancel = CancelRequest::Acknowledged;
                // All consumers hear of it.
                if self.has(Guard::LookUpAfterCancel) {
                    look_up_all(state);
                }
            }
            Action::ReadLetter { operator, job } => read_letter(state, operator, job),
            Action::Replay { operator, step } => {
                state.operators[operator] = self.replay(state, step);
            }
            Action::ScheduleFires { job } => schedule_fires(state, job),
            Action::AckWaitOver { message } => {
                let delivered = state.server.message(message).map(|it| it.delivered);
                if delivered >= Some(self.case.max_deliver) {
                    state.server.give_up(message);
                } else {
                    state.server.redeliver(message);
                }
            }
            Action::Purge { place } => {
                let purged = self.purged(&state.server, place);
                let purged: Vec<_> = purged.map(|message| message.sequence).collect();
                let messages = &mut state.server.messages;
                messages.retain(|message| !purged.contains(&message.sequence));
            }
            Action::Expire { job } => expire(state, job),
            Action::Crash { consumer } => {
                state.left.crashes -= 1;
                // It starts again at once.
                state.consumers[consumer] = Consumer::default();
            }
            Action::Stall { consumer } => {
                state.left.stalls -= 1;
                let consumer = &mut state.consumers[consumer];
                consumer.stalled = true;
                if let Some(lease) = &mut consumer.lease {
                    lease.was_stalled = true;
                }
            }
            Action::Resume { consumer } => state.consumers[consumer].stalled = false,
            Action::LoseAck { consumer } => {
                state.left.lost_acks -= 1;
                state.consumers[consumer].lease = None;
            }
            Action::CrashOperator { operator } => {
                state.left.operator_crashes -= 1;
                state.operators[operator] = Operator::Idle;
            }
            Action::CrashServer => self.crash_server(state),
        }
    }

    fn submit(&self, state: &mut State, job: u8, sent: Sent) {
        let server = &mut state.server;
        let it = server.job_mut(job);
        let first = it.submission != Submission::InDoubt;
        if first {
            it.submitters += 1;
        }
        let variant = it.submitters - 1;
        it.submission = match sent {
            Sent::Answered => Submission::Acknowledged,
            Sent::AnswerLost | Sent::Lost => Submission::InDoubt,
        };
        if sent != Sent::Answered {
            state.left.lost_answers -= 1;
        }
        if sent == Sent::Lost {
            return;
        }
        let of_job = |message: &Message| message.job == job && message.place == Place::Queue;
        let is_there = |run, variant| {
            let same = |message: &Message| (message.run, message.variant) == (run, variant);
            server
                .messages
                .iter()
                .any(|message| of_job(message) && same(message))
        };
        let is_refused = self.has(Guard::OneMessagePerSubject) && is_there(1, variant);
        let has_guard = !self.case.fresh && self.has(Guard::OneMessagePerId);
        if is_refused || (has_guard && server.messages.iter().any(of_job)) {
            return;
        }
        server.publish(Message {
            sequence: 0,
            job,
            run: 1,
            variant,
            place: Place::Queue,
            fresh: self.case.fresh && (first || !self.has(Guard::FreshOnlyOnce)),
            delivered: 0,
            delivery: Delivery::Waiting,
        });
    }

    fn take(&self, state: &mut State, consumer: usize, message: u8, follower: bool) {
        let server = &mut state.server;
        let Some(message) = server.deliver(message) else {
            return;
        };
        let first = message.delivered == 1;
        let job = server.job(message.job);
        let may_skip = message.fresh && first && !self.case.cluster;
        let skips = may_skip || (!first && !self.has(Guard::LookUpOnRedelivery));
        let mut is_behind = false;
        let found = match job.older {
            _ if skips => None,
            Older::Was(older) if follower => {
                if self.has(Guard::ConfirmDoubtful) && is_doubtful(message, older) {
                    job.record
                } else {
                    is_behind = older != job.record;
                    older
                }
            }
            Older::Same | Older::Was(_) => job.record,
        };
        let is_excluded = job
            .record
            .is_some_and(|record| record.state.is_final() || record.run > message.run);
        if follower {
            state.left.stale_reads -= 1;
        }
        let mut lease = Lease {
            message: message.sequence,
            job: message.job,
            run: message.run,
            delivered: message.delivered,
            expected: found.map_or(0, |record| record.sequence),
            failures: found.map_or(0, |record| record.failures),
            was_stalled: false,
            step: Step::Ack,
        };
        match self.decide(message, found) {
            Verdict::Done => {}
            Verdict::PutOff { run } => lease.step = Step::FinishPutOff { run },
            Verdict::Exhausted { failures } => {
                lease.failures = failures;
                lease.step = Step::Die;
            }
            Verdict::Run { failures } => {
                lease.failures = failures;
                lease.step = Step::Run { announced: false };
                // What a follower does not know yet runs once more, and its outcome is refused.
                let is_allowed = is_behind && found.is_none();
                let job = server.job_mut(message.job);
                if is_excluded && !is_allowed {
                    server.wrong = Some(Wrong::RunAfterEnd);
                } else if job.causes == 0 && !is_allowed {
                    server.wrong = Some(Wrong::RunWithoutCause);
                } else {
                    job.causes = job.causes.saturating_sub(1);
                }
            }
        }
        state.consumers[consumer].lease = Some(lease);
    }

    fn decide(&self, message: Message, record: Option<Record>) -> Verdict {
        let (mut failures, mut settled) = (0, 0);
        if let Some(record) = record {
            if record.state.is_final() {
                return Verdict::Done;
            }
            if record.run > message.run && self.has(Guard::RunOfRecord) {
                let waits = record.state == JobState::Retrying;
                return if waits && record.run == message.run + 1 {
                    Verdict::PutOff { run: record.run }
                } else {
                    Verdict::Done
                };
            }
            failures = record.failures;
            if record.run == message.run {
                settled = record.settled_deliveries;
            }
        }
        failures += message.delivered.saturating_sub(settled + 1);
        if failures >= self.case.max_attempts {
            Verdict::Exhausted { failures }
        } else {
            Verdict::Run { failures }
        }
    }

    fn announce(&self, state: &mut State, consumer: usize) {
        let Some(mut lease) = state.consumers[consumer].lease else {
            return;
        };
        let record = Record {
            settled_deliveries: lease.delivered - 1,
            ..record(&lease, JobState::Running)
        };
        lease.step = match self.write(state, &mut lease, record) {
            // The handler is stopped.
            Written::Ended => Step::Ack,
            Written::Yes | Written::Superseded => Step::Run { announced: true },
        };
        state.consumers[consumer].lease = Some(lease);
    }

    fn hand_back(&self, state: &mut State, consumer: usize, succeeded: bool) {
        let Some(mut lease) = state.consumers[consumer].lease else {
            return;
        };
        if succeeded {
            state.server.job_mut(lease.job).returned = true;
        } else {
            state.server.job_mut(lease.job).add_cause();
        }
        let next = if self.has(Guard::RecordBeforeAck) {
            self.store_outcome(state, &mut lease, succeeded)
        } else {
            state.server.acknowledge(lease.message);
            Some(Step::Store { succeeded })
        };
        state.consumers[consumer].lease = next.map(|step| Lease { step, ..lease });
    }

    /// Stores the outcome of an attempt, and returns the next step; `None` if the lease ends.
    fn store_outcome(&self, state: &mut State, lease: &mut Lease, succeeded: bool) -> Option<Step> {
        if succeeded {
            let alone = !lease.was_stalled && lease.delivered == 1;
            let alone = alone || !self.has(Guard::SurelyAlone);
            if self.case.keep == Keep::Failures && lease.expected == 0 && alone {
                state.server.tell_end(lease.job, JobState::Succeeded);
                // Both are sent at once.
                state.server.acknowledge(lease.message);
                return None;
            }
            let record = record(lease, JobState::Succeeded);
            return self.end(state, lease, record);
        }
        lease.failures += 1;
        if lease.failures >= self.case.max_attempts {
            return self.die(state, lease);
        }
        let run = lease.run + 1;
        let record = Record {
            run,
            settled_deliveries: 0,
            ..record(lease, JobState::Retrying)
        };
        match self.write(state, lease, record) {
            Written::Yes => {
                if !self.has(Guard::ScheduleBeforeAck) {
                    state.server.acknowledge(lease.message);
                }
                Some(Step::Schedule { run })
            }
            Written::Ended => Some(Step::Ack),
            Written::Superseded => None,
        }
    }

    fn end(&self, state: &mut State, lease: &mut Lease, record: Record) -> Option<Step> {
        match self.write(state, lease, record) {
            Written::Yes | Written::Ended => Some(Step::Ack),
            Written::Superseded => None,
        }
    }

    /// Stores the record of a dead job, and its dead letter in the same batch.
    fn die(&self, state: &mut State, lease: &mut Lease) -> Option<Step> {
        let record = record(lease, JobState::Dead);
        match self.write(state, lease, record) {
            Written::Yes if self.has(Guard::LetterWithRecord) => {
                state.server.job_mut(lease.job).letter = Some(lease.run);
                Some(Step::Ack)
            }
            Written::Yes => Some(Step::StoreLetter),
            Written::Ended => Some(Step::Ack),
            Written::Superseded => None,
        }
    }

    fn write(&self, state: &mut State, lease: &mut Lease, record: Record) -> Written {
        loop {
            if let Some(sequence) = self.store(state, lease.job, record, lease.expected) {
                lease.expected = sequence;
                return Written::Yes;
            }
            match state.server.job(lease.job).record {
                // It has expired.
                None => lease.expected = 0,
                Some(there) if there.state.is_final() => return Written::Ended,
                Some(_) => return Written::Superseded,
            }
        }
    }

    fn store(&self, state: &mut State, job: u8, record: Record, expected: u8) -> Option<u8> {
        let (compare, keep_older) = (self.has(Guard::CompareAndSet), self.case.cluster);
        let server = &mut state.server;
        server.store_record(job, record, expected, compare, keep_older)
    }

    fn give_back(&self, state: &mut State, consumer: usize) {
        state.left.drains -= 1;
        let Some(mut lease) = state.consumers[consumer].lease else {
            return;
        };
        let queued = record(&lease, JobState::Queued);
        let next = match self.write(state, &mut lease, queued) {
            Written::Yes => Some(Step::Nak),
            Written::Ended => Some(Step::Ack),
            Written::Superseded => None,
        };
        state.consumers[consumer].lease = next.map(|step| Lease { step, ..lease });
    }

    fn settle(&self, state: &mut State, consumer: usize) {
        let Some(mut lease) = state.consumers[consumer].lease else {
            return;
        };
        let next = match lease.step {
            Step::Run { .. } => Some(lease.step),
            Step::Store { succeeded } => {
                self.store_outcome(state, &mut lease, succeeded);
                None
            }
            Step::Die => self.die(state, &mut lease),
            Step::StoreLetter => {
                state.server.job_mut(lease.job).letter = Some(lease.run);
                Some(Step::Ack)
            }
            Step::FinishPutOff { run } if is_found(state, lease.job, run) => Some(Step::Ack),
            Step::FinishPutOff { run } => Some(Step::Schedule { run }),
            Step::Schedule { run } => {
                schedule(state, lease.job, run);
                Some(Step::Ack)
            }
            Step::Nak => {
                state.server.redeliver(lease.message);
                None
            }
            Step::Ack => {
                state.server.acknowledge(lease.message);
                None
            }
        };
        state.consumers[consumer].lease = next.map(|step| Lease { step, ..lease });
    }

    /// Looks at the record of a job that is to be cancelled.
    fn take_request(&self, state: &mut State, consumer: usize, job: u8) {
        let mut of_job = state.server.messages.iter().filter(|it| it.job == job);
        let run = of_job.next().map(|message| message.run);
        let it = state.server.job_mut(job);
        let run = it.record.map(|record| record.run).or(run).or(it.later);
        let duty = match (it.record.map(|record| record.state), run) {
            (Some(JobState::Cancelled), _) => Some(Duty::DeleteMessages { job }),
            (Some(state), _) if state.is_final() => None,
            // There is neither a record nor a message.
            (_, None) => None,
            (_, Some(_)) if !self.has(Guard::CancelledBeforeDelete) => {
                Some(Duty::DeleteMessages { job })
            }
            (_, Some(run)) => {
                let expected = it.sequence();
                Some(Duty::MarkCancelled { job, expected, run })
            }
        };
        if duty.is_none() {
            it.cancel = CancelRequest::Done;
        }
        state.consumers[consumer].duty = duty;
    }

    /// Takes the next step of a duty, and returns what is left of it.
    fn carry_out(&self, state: &mut State, duty: Duty) -> Option<Duty> {
        match duty {
            Duty::MarkCancelled { job, expected, run } => {
                let record = Record {
                    sequence: 0,
                    state: JobState::Cancelled,
                    run,
                    failures: 0,
                    settled_deliveries: 0,
                };
                let stored = self.store(state, job, record, expected).is_some();
                if stored && !self.has(Guard::CancelledBeforeDelete) {
                    state.server.job_mut(job).cancel = CancelRequest::Done;
                    return None;
                }
                // Otherwise the record has changed, and is looked at again.
                stored.then_some(Duty::DeleteMessages { job })
            }
            Duty::DeleteMessages { job } => {
                state.server.delete_all(job);
                let it = state.server.job_mut(job);
                if !self.has(Guard::CancelledBeforeDelete) && !is_final(it.record) {
                    let (expected, run) = (it.sequence(), 1);
                    return Some(Duty::MarkCancelled { job, expected, run });
                }
                it.cancel = CancelRequest::Done;
                None
            }
            Duty::MakeDeadLetter {
                message,
                job,
                run,
                record,
            } => {
                let is_there = state.server.message(message).is_some();
                if is_there && !self.has(Guard::LetterBeforeDelete) {
                    state.server.delete(message);
                    return Some(duty);
                }
                let dead = Record {
                    sequence: 0,
                    state: JobState::Dead,
                    run,
                    failures: record.map_or(0, |record| record.failures),
                    settled_deliveries: 0,
                };
                let expected = record.map_or(0, |record| record.sequence);
                // Otherwise the record has changed, and is looked at again.
                self.store(state, job, dead, expected)?;
                state.server.job_mut(job).letter = Some(run);
                Some(Duty::DeleteMessage { message })
            }
            Duty::DeleteMessage { message } => {
                state.server.delete(message);
                let advisories = &mut state.server.advisories;
                advisories.retain(|advisory| *advisory != message);
                None
            }
        }
    }

    /// Takes the next step of a replay, and returns the one after it.
    fn replay(&self, state: &mut State, step: Operator) -> Operator {
        match step {
            Operator::Idle => step,
            Operator::Record {
                job,
                letter,
                record,
            } => {
                let run = record.run + 1;
                let queued = Record {
                    state: JobState::Queued,
                    run,
                    failures: 0,
                    settled_deliveries: 0,
                    ..record
                };
                let it = state.server.job_mut(job);
                let is_expected = it.sequence() == record.sequence;
                if is_expected {
                    // What was told before counts no more.
                    (it.end, it.returned) = (None, false);
                    it.add_cause();
                }
                match self.store(state, job, queued, record.sequence) {
                    None => Operator::Idle,
                    Some(_) if self.has(Guard::QueuedBeforeRemove) => {
                        Operator::Queue { job, letter, run }
                    }
                    Some(_) => {
                        remove_letter(state, job, letter, self.has(Guard::RemoveBySequence));
                        Operator::Queue { job, letter, run }
                    }
                }
            }
            Operator::Queue { job, letter, run } => {
                let of_run = |message: &Message| {
                    message.job == job && message.run == run && message.place == Place::Queue
                };
                let is_there = state.server.messages.iter().any(of_run);
                if !is_there || !self.has(Guard::OneMessagePerSubject) {
                    state.server.publish(Message {
                        sequence: 0,
                        job,
                        run,
                        variant: 0,
                        place: Place::Queue,
                        fresh: false,
                        delivered: 0,
                        delivery: Delivery::Waiting,
                    });
                }
                Operator::Remove { job, letter }
            }
            Operator::Remove { job, letter } => {
                remove_letter(state, job, letter, self.has(Guard::RemoveBySequence));
                Operator::Idle
            }
        }
    }

    fn crash_server(&self, state: &mut State) {
        state.left.server_crashes -= 1;
        for message in &mut state.server.messages {
            if matches!(message.delivery, Delivery::Pending | Delivery::Acknowledged) {
                message.delivery = Delivery::Waiting;
                message.delivered = 0;
            }
        }
        for job in &mut state.server.jobs {
            job.add_cause();
        }
        if self.has(Guard::LookUpAfterReconnect) {
            look_up_all(state);
        }
    }
}

fn is_final(record: Option<Record>) -> bool {
    record.is_some_and(|record| record.state.is_final())
}

/// A record by the consumer that has this lease.
fn record(lease: &Lease, state: JobState) -> Record {
    Record {
        sequence: 0,
        state,
        run: lease.run,
        failures: lease.failures,
        settled_deliveries: if state.is_final() { 0 } else { lease.delivered },
    }
}

/// Looks at the message of an advisory.
fn take_advisory(state: &mut State, consumer: usize, message: u8) {
    let server = &mut state.server;
    let Some(found) = server.message(message).copied() else {
        server.advisories.retain(|advisory| *advisory != message);
        return;
    };
    let (job, run) = (found.job, found.run);
    let record = server.job(job).record;
    let ended = record.is_some_and(|record| record.state.is_final() || record.run > run);
    if let Some(record) = record
        && record.state == JobState::Retrying
        && record.run == run + 1
        && !is_found(state, job, record.run)
    {
        schedule(state, job, record.run);
    }
    state.consumers[consumer].duty = Some(if ended {
        Duty::DeleteMessage { message }
    } else {
        Duty::MakeDeadLetter {
            message,
            job,
            run,
            record,
        }
    });
}

/// As in `worker/src/intake.rs`.
fn is_doubtful(message: Message, found: Option<Record>) -> bool {
    match found {
        None => message.delivered > 1 || message.run > 1 || message.place == Place::Due,
        Some(record) => !record.state.is_final() || record.state == JobState::Dead,
    }
}

/// From now on, the record of each job that is stored now is looked up.
fn look_up_all(state: &mut State) {
    for message in &mut state.server.messages {
        message.fresh = false;
    }
}

/// Whether a message will end the wait of a job for a run, as `find_message` says.
fn is_found(state: &State, job: u8, run: u8) -> bool {
    let mut messages = state.server.messages.iter();
    let is_there = messages.any(|message| message.job == job && message.run >= run);
    is_there || state.server.job(job).later >= Some(run)
}

fn schedule(state: &mut State, job: u8, run: u8) {
    let it = state.server.job_mut(job);
    it.later = it.later.max(Some(run));
}

fn schedule_fires(state: &mut State, job: u8) {
    let server = &mut state.server;
    let Some(run) = server.job_mut(job).later.take() else {
        return;
    };
    // The stream keeps the newest message of a subject.
    server
        .messages
        .retain(|message| (message.job, message.run, message.place) != (job, run, Place::Due));
    server.publish(Message {
        sequence: 0,
        job,
        run,
        variant: 0,
        place: Place::Due,
        fresh: false,
        delivered: 0,
        delivery: Delivery::Waiting,
    });
}

fn read_letter(state: &mut State, operator: usize, job: u8) {
    state.left.replays -= 1;
    let it = state.server.job(job);
    let Some(letter) = it.letter else { return };
    let record = it.record.unwrap_or(Record {
        sequence: 0,
        state: JobState::Dead,
        run: letter,
        failures: 0,
        settled_deliveries: 0,
    });
    state.operators[operator] = match record.state {
        JobState::Dead => Operator::Record {
            job,
            letter,
            record,
        },
        JobState::Queued => Operator::Queue {
            job,
            letter,
            run: record.run,
        },
        _ => Operator::Remove { job, letter },
    };
}

fn remove_letter(state: &mut State, job: u8, letter: u8, by_sequence: bool) {
    let there = &mut state.server.job_mut(job).letter;
    if !by_sequence || *there == Some(letter) {
        *there = None;
    }
}

/// The record of a job is removed. If nobody has the job any more, its id is free.
fn expire(state: &mut State, job: u8) {
    state.left.expiries -= 1;
    let is_alive = is_alive(&state.server, job);
    let it = state.server.job_mut(job);
    it.record = None;
    if !is_alive {
        (it.end, it.returned, it.forgotten) = (None, false, true);
    }
}
