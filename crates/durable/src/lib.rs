//! The durable lane: jobs in JetStream, which survive the crash of any publisher, consumer or
//! server.

mod api;
mod browse;
mod cancel;
mod cancels;
mod claim;
mod clock;
pub mod dead;
mod direct;
mod doctor;
mod fresh;
mod intake;
mod keeper;
mod lane;
mod lease;
mod letter;
mod look;
mod puller;
mod pulse;
mod records;
mod settle;
mod storage;
mod streams;
mod submit;
mod tail;
mod tally;
mod topology;
mod trace;
mod trim;
mod unserved;
mod writer;

pub use browse::{BadCursor, Cursor, Filter, Listed, Page, list};
pub use cancel::cancel;
pub use dead::{DeadLetter, Replayed, Which};
pub use doctor::{Finding, examine};
pub use lane::{Lane, LaneEnd, LaneOptions, Sink};
pub use lease::Lease;
pub use look::{Waited, look_up, record, wait};
pub use settle::Settlement;
pub use storage::{Storage, dead_letters, storage};
pub use streams::{Guarantees, Queue, StreamDepth, guarantees, queues, streams};
pub use submit::{NewJob, Patience, SubmitError, Submitted, Submitter};
pub use tally::Figures;
pub use topology::{Limits, Stream, Topology};
pub use writer::{Entry, Message, NotStored, Pace, Writer};
