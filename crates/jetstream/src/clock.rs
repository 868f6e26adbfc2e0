use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use common::Timestamp;
use connection::NatsClient;

use crate::manage;
use crate::topology::Stream;

/// The clock of the NATS server, which all consumers use, whatever their own clocks say.
#[derive(Debug, Default)]
pub struct ServerClock {
    /// How far the clock of this machine is behind that of the server, in milliseconds.
    behind: AtomicI64,
}

impl ServerClock {
    /// The server's time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::now().shifted(self.behind.load(Ordering::Relaxed))
    }

    /// Reads the server's time.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn read(&self, client: &NatsClient) -> anyhow::Result<()> {
        let info = manage::stream_info(client, Stream::Jobs).await;
        let info = info.context("cannot read the server's clock")?;
        self.set(info.now);
        Ok(())
    }

    /// Sets the clock to the time that the server has just reported.
    fn set(&self, server: Timestamp) {
        self.behind.store(
            server.milliseconds_ahead_of(Timestamp::now()),
            Ordering::Relaxed,
        );
    }
}
