//! The connection to NATS, which comes back after every loss.

mod client;
mod connection;
mod connector;
mod filter;
mod generations;
mod options;
mod registration;
mod round_trip;
mod server_choice;
mod subscriber;
mod supervise;

pub use self::client::Client;
pub use self::connection::Nats;
pub(crate) use self::connection::StoppedEarly;
pub use self::filter::is_unreadable;
pub(crate) use self::generations::Replacement;
pub use self::options::NatsOptions;
pub use self::registration::{Endpoint, Registration};
pub use self::subscriber::Subscriber;
