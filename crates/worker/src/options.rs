use std::time::Duration;

use common::JobKind;
use jetstream::Topology;

/// How the lane works.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// The name of the consumer.
    pub instance: String,
    /// The kinds that it serves.
    pub kinds: Vec<JobKind>,
    /// How long the records of jobs that have ended are kept, but for dead ones.
    pub keep: Duration,
    /// The most bytes of a payload that such a record keeps; 0 for none.
    pub keep_payload: usize,
    /// The streams.
    pub topology: Topology,
    /// Whether to go on with a server that does not keep what the lane promises.
    pub accept_unsafe: bool,
    /// How long no pull may come to a good end, while jobs wait, before that is a problem.
    pub starved_after: Duration,
}
