//! The durable lane: jobs in JetStream, which survive the crash of any publisher, consumer or
//! server.

mod api;
mod topology;
mod writer;

pub use topology::{Limits, Stream, Topology};
pub use writer::{Entry, Message, NotStored, Writer};
