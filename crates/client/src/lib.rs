//! What applications and operators do with jobs: submit them, wait for their end, look them up, list
//! and cancel them, and handle dead letters.
//!
//! It uses NATS, but neither HTTP nor a terminal: the gateway and the command line are built on it.
//!
//! The feature `schedules` adds the module `schedules`.
//!
//! With the feature `opentelemetry`, a job that is submitted inside a span of OpenTelemetry 0.33 carries its
//! context to the consumer that runs it. A `tracing` span is such a span if the program has the layer of
//! tracing-opentelemetry 0.34.

mod application;
pub mod backup;
mod cancel;
mod confirmed;
mod cursor;
pub mod dead_letters;
mod draft;
mod filter;
mod fleet;
mod follow;
mod handle;
mod job;
mod key;
pub mod kinds;
mod known_ids;
mod known_kinds;
mod link;
mod list;
mod listed;
mod lookup;
mod many;
mod queues;
mod result;
mod reverse_scan;
mod room;
mod run_now;
#[cfg(feature = "schedules")]
pub mod schedules;
mod search_text;
mod submit;
mod submitted;
#[cfg(feature = "opentelemetry")]
mod trace;
mod unique;
mod wait;
mod why;

pub use application::{Client, Confirmed, Durable, FireAndForget};
pub use cancel::cancel;
pub use confirmed::{ConfirmedError, RequestError, publish, request};
pub use cursor::BadCursor;
pub use dead_letters::{DeadLetter, Replayed, Which};
pub use draft::{Draft, Keeps, id_of_key};
pub use filter::Filter;
pub use fleet::{FleetError, fleet};
pub use follow::WaitError;
pub use handle::{Handle, ResultError};
pub use job::NewJob;
pub use key::{Key, key_of};
pub use known_kinds::is_known_kind;
pub use list::{Cursor, Page, list};
pub use listed::Listed;
pub use lookup::{look_up, message, record};
pub use many::{ManyAction, ManyDone, ManyJobs, ManyWorker};
pub use queues::{Queue, Queues, queues};
pub use run_now::{RunNowError, run_now};
pub use search_text::{InvalidSearchText, SearchText};
pub use submit::{Patience, Submitter};
pub use submitted::{SubmitError, Submitted};
pub use wait::{Waited, wait};
pub use why::{Reason, Why, reasons, why};

// The items of the wire, the connection and the broker that callers use.
pub use common::{
    Backoff, Job, JobId, JobKind, JobRecord, JobState, KindPattern, KindSetting, OnConflict,
    Priority, RunNow, Timestamp, Unique, Until,
};
pub use connection::{ConnectError, NatsClient, Options, OptionsError};
pub use jetstream::preflight::examine;
pub use jetstream::write_health::{WriteHealth, check as check_write_health};
pub use jetstream::{
    Finding, Guarantees, Limits, NotStored, Storage, Stream, StreamDepth, TICKS, Topology,
    dead_letters as count_dead_letters, guarantees, parse_consumer, storage, streams,
};
