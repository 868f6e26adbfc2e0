//! A connection to NATS that comes back after every loss, whatever ended it, with its subscriptions.
//!
//! It knows neither a command line nor metrics: applications use it as services do.

mod client;
mod connect_error;
mod connection;
mod connector;
mod filter;
mod generations;
mod health;
mod options;
mod refusals;
mod round_trip;
mod server_choice;
mod state;
mod subscriber;
mod supervise;
mod task;

pub use async_nats::ServerAddr;

pub use self::client::NatsClient;
pub use self::connect_error::ConnectError;
pub use self::connection::Nats;
pub use self::filter::{is_unreadable, read_headers};
pub use self::health::{Health, Readiness};
pub use self::options::{Identity, InboxPrefix, InvalidInboxPrefix, Options, OptionsError};
pub use self::refusals::{Operation, Refusals};
pub use self::state::ConnectionSummary;
pub use self::subscriber::Subscriber;
pub use self::task::{Beat, STILL, alive};
