//! The consumer as its users see it: the real binary on a real nats-server.

mod answers;
mod fixture;
mod kinds;
mod library;
mod outage;
mod saturation;
mod sharing;
mod shutdown;
mod status;
