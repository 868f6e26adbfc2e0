//! The guards of the protocol, each of which a mutation leaves out.

/// A rule that the code keeps. docs/architecture.md names the file of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// A record is written only in place of the one that its writer knows.
    CompareAndSet,
    /// The record of a redelivered job is looked up.
    LookUpOnRedelivery,
    /// A message of an earlier run than that in the record is not run.
    RunOfRecord,
    /// The outcome is stored before the message is acknowledged.
    RecordBeforeAck,
    /// The schedule of the next run is stored before the message is acknowledged.
    ScheduleBeforeAck,
    /// The dead letter is stored in one batch with the record.
    LetterWithRecord,
    /// Only what is below the ack floor is purged.
    PurgeBelowAckFloor,
    /// Nothing is purged while an advisory waits.
    PurgeAfterAdvisories,
    /// A message that the server gave up is deleted after its dead letter is stored.
    LetterBeforeDelete,
    /// The queue keeps one message for each subject, and refuses another.
    OneMessagePerSubject,
    /// A job whose id it did not make itself is submitted on condition that the queue has no message of it.
    OneMessagePerId,
    /// Only the first try to submit a job says that its id is fresh.
    FreshOnlyOnce,
    /// After the server was away, the record of each job that was stored before is looked up.
    LookUpAfterReconnect,
    /// After a request to cancel, the record of each job that was stored before is looked up.
    LookUpAfterCancel,
    /// In a cluster, a record that could decide wrongly is read from the leader.
    ConfirmDoubtful,
    /// A cancelled job gets its record before its messages are deleted.
    CancelledBeforeDelete,
    /// The job of a replay is queued before its dead letter is removed.
    QueuedBeforeRemove,
    /// A dead letter is removed by its sequence.
    RemoveBySequence,
    /// A job ends without a record only if no other consumer can have it.
    SurelyAlone,
    /// Records are kept for longer than messages wait to be delivered again.
    RecordOutlivesMessage,
}

impl Guard {
    pub(crate) const ALL: [Self; 20] = [
        Self::CompareAndSet,
        Self::LookUpOnRedelivery,
        Self::RunOfRecord,
        Self::RecordBeforeAck,
        Self::ScheduleBeforeAck,
        Self::LetterWithRecord,
        Self::PurgeBelowAckFloor,
        Self::PurgeAfterAdvisories,
        Self::LetterBeforeDelete,
        Self::OneMessagePerSubject,
        Self::OneMessagePerId,
        Self::FreshOnlyOnce,
        Self::LookUpAfterReconnect,
        Self::LookUpAfterCancel,
        Self::ConfirmDoubtful,
        Self::CancelledBeforeDelete,
        Self::QueuedBeforeRemove,
        Self::RemoveBySequence,
        Self::SurelyAlone,
        Self::RecordOutlivesMessage,
    ];
}
