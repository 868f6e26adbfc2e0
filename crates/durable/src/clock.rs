use std::sync::atomic::{AtomicI64, Ordering};

use common::Timestamp;

/// The time of the NATS server, which all consumers agree on, whatever their own clocks say.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    /// How far this machine's clock is behind, in milliseconds.
    behind: AtomicI64,
}

impl ServerClock {
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now().shifted(self.behind.load(Ordering::Relaxed))
    }

    /// The server has just said what time it is.
    pub(crate) fn set(&self, server: Timestamp) {
        self.behind.store(
            server.milliseconds_ahead_of(Timestamp::now()),
            Ordering::Relaxed,
        );
    }
}
