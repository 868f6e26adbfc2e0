//! The connection to NATS, which is there again after it was lost, however it was lost.

mod client;
mod connection;
mod filter;
mod options;
mod registration;

pub(crate) use self::client::Replacement;
pub use self::client::{Client, Subscriber};
pub use self::connection::Nats;
pub(crate) use self::connection::StoppedEarly;
pub use self::filter::is_unreadable;
pub use self::options::NatsOptions;
pub use self::registration::{Endpoint, Registration};
