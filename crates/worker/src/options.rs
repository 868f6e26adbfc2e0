use std::time::Duration;

use common::JobKind;
use jetstream::Topology;

/// The options of the durable lane.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// The name of the consumer instance.
    pub instance: String,
    /// The kinds that it serves.
    pub kinds: Vec<JobKind>,
    /// How long the record of a job is kept at least after the job has ended. The record of a dead letter
    /// is kept until the dead letter is replayed or discarded.
    pub keep: Duration,
    /// The largest payload that such a record keeps, in bytes; 0 keeps none.
    pub keep_payload: usize,
    /// The declaration of the streams.
    pub topology: Topology,
    /// Whether to use a server that may lose what it has confirmed.
    pub accept_unsafe: bool,
    /// How long pulls may fail while jobs wait, before the service reports a problem.
    pub starved_after: Duration,
}
