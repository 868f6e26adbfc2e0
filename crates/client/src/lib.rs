//! What applications and operators do with jobs: submit them, wait for their end, look them up, list
//! and cancel them, and handle dead letters.
//!
//! It knows NATS, and neither HTTP nor a terminal: the gateway and the command line stand on it.

mod cancel;
mod cursor;
pub mod dead_letters;
mod fleet;
mod job;
mod list;
mod lookup;
mod queues;
mod reverse_scan;
mod submit;
mod wait;

pub use cancel::cancel;
pub use cursor::BadCursor;
pub use dead_letters::{DeadLetter, Replayed, Which};
pub use fleet::{FleetError, fleet};
pub use job::NewJob;
pub use list::{Cursor, Filter, Listed, Page, list};
pub use lookup::{look_up, message, record};
pub use queues::{Queue, Queues, queues};
pub use submit::{Patience, SubmitError, Submitted, Submitter};
pub use wait::{Waited, wait};

// What callers see of the broker.
pub use jetstream::preflight::examine;
pub use jetstream::write_health::{WriteHealth, check as check_write_health};
pub use jetstream::{
    Finding, Guarantees, Limits, NotStored, Storage, Stream, StreamDepth, Topology,
    dead_letters as count_dead_letters, guarantees, storage, streams,
};
