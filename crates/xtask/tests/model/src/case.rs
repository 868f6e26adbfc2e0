//! The small cases that are explored.

/// How often each fault, and each thing that somebody may wish, happens at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// A consumer is killed, and starts again.
    pub(crate) crashes: u8,
    /// A consumer is paused or cut off for longer than the ack wait.
    pub(crate) stalls: u8,
    /// A consumer that stops gives a job back.
    pub(crate) drains: u8,
    pub(crate) lost_acks: u8,
    /// The answer to a submission is lost, or the submission.
    pub(crate) lost_answers: u8,
    /// The server is killed, and forgets deliveries and acknowledgements.
    pub(crate) server_crashes: u8,
    /// A follower answers that is one record behind.
    pub(crate) stale_reads: u8,
    pub(crate) cancels: u8,
    pub(crate) replays: u8,
    /// A client that replays is killed.
    pub(crate) operator_crashes: u8,
    pub(crate) expiries: u8,
}

/// Which jobs leave a record when they have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    Failures,
}

/// A case that is explored to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) jobs: u8,
    pub(crate) consumers: u8,
    pub(crate) operators: u8,
    /// How many programs submit the same id, each with a priority of its own.
    pub(crate) submitters: u8,
    pub(crate) max_attempts: u8,
    pub(crate) max_deliver: u8,
    /// Whether handlers may fail.
    pub(crate) fails: bool,
    /// Whether the submitter makes the id.
    pub(crate) fresh: bool,
    pub(crate) cluster: bool,
    pub(crate) keep: Keep,
    pub(crate) most: Budget,
}

impl Case {
    const ONE_JOB: Self = Self {
        jobs: 1,
        consumers: 2,
        operators: 0,
        submitters: 1,
        max_attempts: 2,
        max_deliver: 9,
        fails: true,
        fresh: true,
        cluster: false,
        keep: Keep::All,
        most: Budget {
            crashes: 0,
            stalls: 0,
            drains: 0,
            lost_acks: 0,
            lost_answers: 0,
            server_crashes: 0,
            stale_reads: 0,
            cancels: 0,
            replays: 0,
            operator_crashes: 0,
            expiries: 0,
        },
    };

    /// One job, retried once; a consumer is killed, and one is paused.
    pub(crate) const RETRIED: Self = Self {
        most: Budget {
            crashes: 1,
            stalls: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// One job that may fail twice; its consumer is killed or stopped, or its acknowledgement is lost.
    pub(crate) const RETRIED_TWICE: Self = Self {
        max_attempts: 3,
        most: Budget {
            crashes: 1,
            drains: 1,
            lost_acks: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// Two jobs that lie behind one another in the queue, which is purged.
    pub(crate) const TWO_JOBS: Self = Self {
        jobs: 2,
        max_attempts: 1,
        most: Budget {
            crashes: 1,
            stalls: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// The server gives a message up.
    pub(crate) const GIVEN_UP: Self = Self {
        max_deliver: 1,
        most: Budget {
            crashes: 1,
            stalls: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// The answer to a submission is lost, and the server is killed.
    pub(crate) const SUBMITTED_AGAIN: Self = Self {
        most: Budget {
            lost_answers: 1,
            server_crashes: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// Two programs submit one id.
    pub(crate) const TWO_SUBMITTERS: Self = Self {
        fresh: false,
        submitters: 2,
        most: Budget {
            stalls: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// A job is cancelled; a consumer is killed, and one is paused.
    pub(crate) const CANCELLED: Self = Self {
        max_attempts: 1,
        most: Budget {
            crashes: 1,
            stalls: 1,
            cancels: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// A job is cancelled that may wait for its second attempt.
    pub(crate) const CANCELLED_LATER: Self = Self {
        most: Budget {
            crashes: 2,
            cancels: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// Two clients replay a dead letter, and one of them is killed.
    pub(crate) const REPLAYED: Self = Self {
        operators: 2,
        max_attempts: 1,
        most: Budget {
            stalls: 1,
            replays: 2,
            operator_crashes: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// The same in a cluster, where followers answer.
    pub(crate) const CLUSTER: Self = Self {
        operators: 1,
        max_attempts: 1,
        cluster: true,
        most: Budget {
            crashes: 1,
            stale_reads: 2,
            cancels: 1,
            replays: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// A kind that leaves no record of jobs that succeeded.
    pub(crate) const WITHOUT_RECORD: Self = Self {
        keep: Keep::Failures,
        most: Budget {
            crashes: 1,
            stalls: 1,
            drains: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// Records expire.
    pub(crate) const EXPIRED: Self = Self {
        most: Budget {
            crashes: 1,
            stalls: 1,
            lost_acks: 1,
            expiries: 1,
            ..Self::ONE_JOB.most
        },
        ..Self::ONE_JOB
    };

    /// All cases.
    pub(crate) const ALL: [(&str, Self); 12] = [
        ("retried", Self::RETRIED),
        ("retried twice", Self::RETRIED_TWICE),
        ("two jobs", Self::TWO_JOBS),
        ("given up", Self::GIVEN_UP),
        ("submitted again", Self::SUBMITTED_AGAIN),
        ("two submitters", Self::TWO_SUBMITTERS),
        ("cancelled", Self::CANCELLED),
        ("cancelled later", Self::CANCELLED_LATER),
        ("replayed", Self::REPLAYED),
        ("cluster", Self::CLUSTER),
        ("without a record", Self::WITHOUT_RECORD),
        ("expired", Self::EXPIRED),
    ];
}
