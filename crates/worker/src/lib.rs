//! The durable lane of a consumer: pulls jobs, decides what to do with each job, keeps its message
//! in progress, and settles it. Also maintains the streams.

mod acknowledged;
mod cancel_listener;
mod counters;
mod decide;
mod durable_consumer;
mod fetch;
mod first_delivery;
mod heartbeat;
mod intake;
mod lane;
mod lease;
mod maintenance;
mod newer_version;
mod options;
mod phases;
mod queues;
mod read_message;
mod settle;
mod share;
mod sink;
mod stalls;
mod store;
mod trace;
mod unheeded;

pub use counters::Figures;
pub use jetstream::{Topology, is_served};
pub use lane::{Lane, LaneEnd};
pub use lease::Lease;
pub use options::LaneOptions;
pub use settle::Settlement;
pub use sink::Sink;
