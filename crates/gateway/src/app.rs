use bootstrap::{Context, Nats};
use durable::Submitter;

/// What every request can use. Clones share it.
#[derive(Clone)]
pub(crate) struct App {
    /// This instance.
    pub(crate) context: Context,
    /// The connection to NATS.
    pub(crate) nats: Nats,
    /// Hands durable jobs over; those that come at the same time are stored together.
    pub(crate) submitter: Submitter,
}
