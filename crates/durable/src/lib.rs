//! The durable lane: jobs in JetStream, which survive the crash of any publisher, consumer or
//! server.

mod api;
mod cancels;
mod claim;
mod clock;
mod depth;
mod intake;
mod keeper;
mod lane;
mod lease;
mod puller;
mod pulse;
mod records;
mod settle;
mod topology;
mod trim;
mod unserved;
mod writer;

pub use depth::{Depth, depth};
pub use lane::{Lane, LaneEnd, LaneOptions, Sink};
pub use lease::Lease;
pub use settle::Settlement;
pub use topology::{Limits, Stream, Topology};
pub use writer::{Entry, Message, NotStored, Pace, Writer};
