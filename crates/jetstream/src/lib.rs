//! The JetStream side of durable jobs: requests to JetStream, and the streams and durable consumers.
//!
//! Applications use the crate `client`, consumers the crate `worker`; both are built on this one.

pub mod batch;
mod clock;
mod cluster;
pub mod direct_get;
mod each_server;
pub mod headers;
pub mod job_messages;
pub mod kind_settings;
mod leader_get;
pub mod manage;
mod message;
pub mod preflight;
pub mod priorities;
pub mod queue_limit;
pub mod records;
pub mod request;
pub mod schedules;
mod served;
pub mod snapshot;
mod stored_message;
mod topology;
mod unanswered;
pub mod unique_locks;
mod usage;
pub mod write_health;

pub use batch::{Entry, NotStored, Pace, Writer};
pub use clock::ServerClock;
pub use cluster::is_clustered;
pub use message::Message;
pub use preflight::Finding;
pub use queue_limit::QueueLimit;
pub use request::ApiError;
pub use served::is_served;
pub use stored_message::StoredMessage;
pub use topology::{
    ACK_WAIT, Limits, Stream, TICKS, Topology, consumer_name, consumer_of_priority, jobs_of_kind,
    jobs_of_kinds, no_jobs_of_kind, parse_consumer,
};
pub use unanswered::Unanswered;
pub use usage::{Guarantees, Storage, StreamDepth, dead_letters, guarantees, storage, streams};
pub use write_health::WriteHealth;
