//! What the server stores, and what is known of the past of each job.

/// The state in a record; what is not modelled (`scheduled`, `expired`) behaves like one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum JobState {
    Queued,
    Running,
    Retrying,
    Succeeded,
    Dead,
    Cancelled,
}

impl JobState {
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }
}

/// The record of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Record {
    /// The sequence of the record, which the next record has to expect.
    pub(crate) sequence: u8,
    pub(crate) state: JobState,
    pub(crate) run: u8,
    /// How many attempts of this run and the runs before have failed.
    pub(crate) failures: u8,
    pub(crate) settled_deliveries: u8,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// On `jobs.durable.<id>…`.
    Queue,
    /// On `jobs.due.<id>…`.
    Due,
}

/// What the durable consumer of the server knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Delivery {
    Waiting,
    Pending,
    Acknowledged,
    /// It has reached `max_deliver`.
    GivenUp,
}

/// A message that can be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) sequence: u8,
    pub(crate) job: u8,
    pub(crate) run: u8,
    /// The rest of its subject: another priority or kind.
    pub(crate) variant: u8,
    pub(crate) place: Place,
    /// Whether the header says that the id is fresh, and no reason is known to look its record up.
    pub(crate) fresh: bool,
    /// How often it was delivered.
    pub(crate) delivered: u8,
    pub(crate) delivery: Delivery,
}

/// How far the submission of a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Submission {
    Outstanding,
    /// The answer of the server was lost.
    InDoubt,
    Acknowledged,
}

/// How far a request to cancel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum CancelRequest {
    None,
    /// It is stored.
    Acknowledged,
    /// A consumer has carried it out.
    Done,
}

/// The record that a follower may still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Older {
    Same,
    /// That before the last write.
    Was(Option<Record>),
}

/// What is stored of a job beside its messages, and what the checker remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub(crate) submission: Submission,
    /// How many of its submitters have begun.
    pub(crate) submitters: u8,
    pub(crate) record: Option<Record>,
    pub(crate) older: Older,
    /// The sequence of the last record.
    pub(crate) last_sequence: u8,
    /// The run of the dead letter, which stands for its sequence.
    pub(crate) letter: Option<u8>,
    /// The run that the message on `jobs.later.<id>` schedules.
    pub(crate) later: Option<u8>,
    pub(crate) cancel: CancelRequest,
    /// The end that was told, by a record or an event.
    pub(crate) end: Option<JobState>,
    /// How many runs of the handler have a cause that has not been used up.
    pub(crate) causes: u8,
    /// Whether the handler has returned a success.
    pub(crate) returned: bool,
    /// Whether its record has expired, and with it all promises.
    pub(crate) forgotten: bool,
}

/// The most causes that are counted.
const MOST_CAUSES: u8 = 3;

impl Job {
    pub(crate) fn new() -> Self {
        Self {
            submission: Submission::Outstanding,
            submitters: 0,
            record: None,
            older: Older::Same,
            last_sequence: 0,
            letter: None,
            later: None,
            cancel: CancelRequest::None,
            end: None,
            causes: 1,
            returned: false,
            forgotten: false,
        }
    }

    pub(crate) fn sequence(&self) -> u8 {
        self.record.map_or(0, |record| record.sequence)
    }

    /// Something has happened for which the handler may be called once more.
    pub(crate) fn add_cause(&mut self) {
        self.causes = (self.causes + 1).min(MOST_CAUSES);
    }
}

/// What must never happen. The exploration ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    /// Another end was told than before.
    Contradicted,
    /// A cancelled job has succeeded.
    SucceededAfterCancel,
    /// A job is said to have succeeded whose handler has not returned a success.
    SucceededWithoutRun,
    /// A consumer has looked a job up, and runs it although it has ended, or waits for another run.
    RunAfterEnd,
    /// A handler was called twice although nothing went wrong.
    RunWithoutCause,
}

/// The streams of the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) jobs: Vec<Job>,
    /// In the order of their sequences.
    pub(crate) messages: Vec<Message>,
    pub(crate) last_sequence: u8,
    /// The messages whose advisories are stored, by sequence.
    pub(crate) advisories: Vec<u8>,
    pub(crate) wrong: Option<Wrong>,
}

impl Server {
    pub(crate) fn job(&self, job: u8) -> &Job {
        &self.jobs[usize::from(job)]
    }

    pub(crate) fn job_mut(&mut self, job: u8) -> &mut Job {
        &mut self.jobs[usize::from(job)]
    }

    pub(crate) fn message(&self, sequence: u8) -> Option<&Message> {
        self.messages
            .iter()
            .find(|message| message.sequence == sequence)
    }

    fn message_mut(&mut self, sequence: u8) -> Option<&mut Message> {
        self.messages
            .iter_mut()
            .find(|message| message.sequence == sequence)
    }

    /// Stores a message that can be delivered.
    pub(crate) fn publish(&mut self, message: Message) {
        self.last_sequence += 1;
        self.messages.push(Message {
            sequence: self.last_sequence,
            ..message
        });
    }

    pub(crate) fn deliver(&mut self, sequence: u8) -> Option<Message> {
        let message = self.message_mut(sequence)?;
        message.delivered += 1;
        message.delivery = Delivery::Pending;
        Some(*message)
    }

    /// An acknowledgement counts for a message that was delivered.
    pub(crate) fn acknowledge(&mut self, sequence: u8) {
        if let Some(message) = self.message_mut(sequence)
            && message.delivery == Delivery::Pending
        {
            message.delivery = Delivery::Acknowledged;
        }
    }

    /// Makes a message that was delivered wait again.
    pub(crate) fn redeliver(&mut self, sequence: u8) {
        if let Some(message) = self.message_mut(sequence)
            && message.delivery == Delivery::Pending
        {
            message.delivery = Delivery::Waiting;
            let job = message.job;
            self.job_mut(job).add_cause();
        }
    }

    pub(crate) fn give_up(&mut self, sequence: u8) {
        if let Some(message) = self.message_mut(sequence) {
            message.delivery = Delivery::GivenUp;
            let job = message.job;
            self.advisories.push(sequence);
            self.job_mut(job).add_cause();
        }
    }

    pub(crate) fn delete(&mut self, sequence: u8) {
        self.messages.retain(|message| message.sequence != sequence);
    }

    pub(crate) fn delete_all(&mut self, job: u8) {
        self.messages.retain(|message| message.job != job);
        self.job_mut(job).later = None;
    }

    /// Notes an end that is told.
    pub(crate) fn tell_end(&mut self, job: u8, state: JobState) {
        let told = self.job_mut(job);
        let before = told.end.replace(state);
        let wrong = match before {
            Some(JobState::Cancelled) if state == JobState::Succeeded => {
                Some(Wrong::SucceededAfterCancel)
            }
            Some(before) if before != state => Some(Wrong::Contradicted),
            _ if state == JobState::Succeeded && !told.returned => Some(Wrong::SucceededWithoutRun),
            _ => None,
        };
        self.wrong = self.wrong.or(wrong);
    }

    /// Stores a record in place of the one with the expected sequence; `None` if another one is there.
    /// Without compare-and-set, it replaces what is there.
    pub(crate) fn store_record(
        &mut self,
        job: u8,
        record: Record,
        expected: u8,
        compare: bool,
        keep_older: bool,
    ) -> Option<u8> {
        let there = self.job_mut(job);
        if compare && there.sequence() != expected {
            return None;
        }
        there.last_sequence += 1;
        let sequence = there.last_sequence;
        if keep_older {
            there.older = Older::Was(there.record);
        }
        there.record = Some(Record { sequence, ..record });
        if record.state.is_final() {
            self.tell_end(job, record.state);
        } else if there.end.is_some() {
            // Only a replay takes an end back, and it does so itself.
            self.wrong = self.wrong.or(Some(Wrong::Contradicted));
        }
        Some(sequence)
    }
}
