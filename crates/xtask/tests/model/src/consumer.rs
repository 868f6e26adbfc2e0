//! What a consumer and an operator hold in their memory.

use crate::server::Record;

/// A process that runs jobs. It has one slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Consumer {
    /// Whether it is paused or cut off, so that nothing that it does reaches the server.
    pub(crate) stalled: bool,
    pub(crate) lease: Option<Lease>,
    /// What it does for all consumers.
    pub(crate) duty: Option<Duty>,
}

/// A job that a consumer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lease {
    /// The sequence of its message.
    pub(crate) message: u8,
    pub(crate) job: u8,
    pub(crate) run: u8,
    pub(crate) delivered: u8,
    /// The sequence of the record that it knows, 0 if there is none.
    pub(crate) expected: u8,
    pub(crate) failures: u8,
    /// Whether its consumer was stalled meanwhile.
    pub(crate) was_stalled: bool,
    pub(crate) step: Step,
}

/// What the consumer does next with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The handler runs; whether the record says so.
    Run { announced: bool },
    /// The message is acknowledged, and the outcome is to be stored: only without
    /// [`Guard::RecordBeforeAck`](crate::guard::Guard).
    Store { succeeded: bool },
    /// All attempts are used up by lost consumers.
    Die,
    /// The dead letter is to be stored: only without
    /// [`Guard::LetterWithRecord`](crate::guard::Guard).
    StoreLetter,
    /// The record says that the job waits for a run, and the schedule of that run is to be stored.
    Schedule { run: u8 },
    /// The record says that the job waits for a run, and its message may be missing.
    FinishPutOff { run: u8 },
    /// The message is to be given back.
    Nak,
    /// The message is to be acknowledged.
    Ack,
}

/// Work that one consumer does for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Duty {
    /// A request to cancel: the record is to be written in place of the one with this sequence.
    MarkCancelled { job: u8, expected: u8, run: u8 },
    /// A request to cancel: the messages of the job are to be deleted.
    DeleteMessages { job: u8 },
    /// An advisory: the dead letter of the message is to be stored.
    MakeDeadLetter {
        message: u8,
        job: u8,
        run: u8,
        record: Option<Record>,
    },
    /// An advisory: the message is to be deleted.
    DeleteMessage { message: u8 },
}

/// A client that replays a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operator {
    Idle,
    /// It has read the dead letter of a run, and the record.
    Record {
        job: u8,
        letter: u8,
        record: Record,
    },
    /// The record says that the job is queued; its message is to be stored.
    Queue {
        job: u8,
        letter: u8,
        run: u8,
    },
    /// The dead letter is to be removed.
    Remove {
        job: u8,
        letter: u8,
    },
}
