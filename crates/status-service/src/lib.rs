//! Asks every consumer on `jobs.status` how it is, keeps the totals of the fleet, logs them, and
//! tells them on `jobs.fleet` to whoever asks.
//!
//! A round is one question and the answers to it ([`Asker`]). The fleet ([`Fleet`]) knows what
//! the rounds told: it has neither a connection nor a clock, and its totals never go down.

mod answer;
mod asker;
mod config;
mod counts;
mod depth;
mod due;
mod fleet;
mod folded;
mod metrics;
mod news;
mod page;
mod report;
mod serve;

pub use answer::{Answer, InstanceId, KindRuns};
pub use asker::{Asker, Ended, Ignored, Round};
pub use config::Config;
pub use fleet::Fleet;
pub use news::{Change, Event, News, Since, Spread, Summary};
pub use serve::serve;
