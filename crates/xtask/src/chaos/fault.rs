//! What the suite breaks, and which runs a fault explains.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A sort of fault.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// SIGKILL of a consumer, which is started again
    KillConsumer,
    /// SIGTERM of a consumer with a grace of two seconds, and a new start
    StopConsumer,
    /// SIGSTOP of a consumer for up to 18 seconds, longer than the server waits for it
    PauseConsumer,
    /// SIGKILL of the publisher, which is given the same jobs again
    KillPublisher,
    /// SIGSTOP of the publisher for up to 5 seconds
    PausePublisher,
    /// SIGKILL of the gateway, which is started again
    KillGateway,
    /// SIGSTOP of the gateway for up to 5 seconds
    PauseGateway,
    /// SIGKILL of a nats-server, which is started again
    KillServer,
    /// SIGTERM of a nats-server, which is started again
    StopServer,
    /// SIGSTOP of a nats-server for up to 8 seconds
    PauseServer,
    /// All connections through the proxy are closed, and new ones are refused, for up to 5 seconds
    Cut,
    /// For up to 12 seconds, connections through the proxy stay open and nothing passes
    HalfOpen,
    /// For up to 8 seconds, nothing passes from the server to its clients through the proxy
    OneWay,
    /// For up to 8 seconds, each piece is late by up to 0.4 seconds on the proxy
    Delay,
    /// An operator deletes a durable consumer of the queue or of the waiting jobs
    DeleteConsumer,
    /// Bytes that are no job on the subjects of jobs, headers that end connections, and no NATS on a socket
    Garbage,
    /// The leader of a stream hands over to another server (with --cluster)
    StepDown,
}

/// What a fault touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The consumer that the fault names.
    OneConsumer,
    /// All services that reach the server through the proxy.
    Proxied,
    /// Every service.
    All,
    /// No consumer.
    None,
}

/// The end of the names of consumers that reach the server through the proxy.
pub(super) const PROXIED: &str = "-proxied";

impl Fault {
    pub(super) fn scope(self) -> Scope {
        match self {
            Self::KillConsumer | Self::StopConsumer | Self::PauseConsumer => Scope::OneConsumer,
            Self::Cut | Self::HalfOpen | Self::OneWay | Self::Delay => Scope::Proxied,
            Self::KillServer
            | Self::StopServer
            | Self::PauseServer
            | Self::DeleteConsumer
            | Self::Garbage
            | Self::StepDown => Scope::All,
            Self::KillPublisher | Self::PausePublisher | Self::KillGateway | Self::PauseGateway => {
                Scope::None
            }
        }
    }

    /// Whether it touches this consumer if it was done to `target`.
    pub(super) fn touches(self, target: &str, consumer: &str) -> bool {
        match self.scope() {
            Scope::OneConsumer => target == consumer,
            Scope::Proxied => consumer.ends_with(PROXIED),
            Scope::All => true,
            Scope::None => false,
        }
    }

    /// How long after its end it may still show: connections are made again, elections take their time, and
    /// a durable consumer that was deleted is missed and then delivers all that is in the queue.
    pub(super) fn aftermath(self) -> Duration {
        Duration::from_secs(match self {
            Self::KillServer
            | Self::StopServer
            | Self::PauseServer
            | Self::StepDown
            | Self::Garbage => 10,
            Self::DeleteConsumer | Self::Cut | Self::HalfOpen | Self::OneWay | Self::Delay => 20,
            _ => 0,
        })
    }

    /// The longest that it is kept up; zero for what is done at once.
    pub(super) fn longest(self) -> Duration {
        Duration::from_secs(match self {
            Self::PauseConsumer => 18,
            Self::HalfOpen => 12,
            Self::PauseServer | Self::OneWay | Self::Delay => 8,
            Self::PausePublisher | Self::PauseGateway | Self::Cut => 5,
            Self::KillServer | Self::StopServer | Self::KillConsumer | Self::KillGateway => 2,
            _ => 0,
        })
    }

    /// All that can be done to one server, or to a cluster.
    pub(super) fn all(cluster: bool) -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|fault| cluster || *fault != Self::StepDown)
            .collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no fault is hidden");
        f.pad(value.get_name())
    }
}
