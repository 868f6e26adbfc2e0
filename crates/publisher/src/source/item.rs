use common::{JobId, OutcomeError};

use crate::submission::{InputLine, Submission};

/// The next thing that a source yields.
#[derive(Debug)]
pub(crate) enum Item {
    Job(Submission),
    BadLine(BadLine),
}

/// A line of the input that is not a job.
#[derive(Debug)]
pub(crate) struct BadLine {
    pub(crate) line: InputLine,
    /// The job's id; `None` if the line holds no valid one.
    pub(crate) id: Option<JobId>,
    pub(crate) error: OutcomeError,
}
