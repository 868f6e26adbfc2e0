use serde::{Deserialize, Serialize};

/// The answer of a consumer to the request to run a waiting job now, on [`crate::subjects::run_now`].
///
/// ```
/// let answer: common::RunNowAnswer = serde_json::from_str(r#"{"result": "not_waiting"}"#)?;
/// assert_eq!(answer.result, common::RunNow::NotWaiting);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunNowAnswer {
    /// What became of the job.
    pub result: RunNow,
}

/// What became of a job that was to be run now.
///
/// ```
/// assert_eq!(serde_json::to_value(common::RunNow::Due)?, "due");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunNow {
    /// It waited for its time or for its next attempt, and is due within about a second now.
    Done,
    /// It is due within a second anyway.
    Due,
    /// It does not wait for a time: it is in the queue, runs, has ended, or is not known. Or it waits too short
    /// a time, or is too large, for a schedule of its own.
    NotWaiting,
}
