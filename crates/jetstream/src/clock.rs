use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use bootstrap::Client;
use common::Timestamp;

use crate::manage;
use crate::topology::Stream;

/// The clock of the NATS server, on which all consumers agree whatever their own clocks say.
#[derive(Debug, Default)]
pub struct ServerClock {
    /// How far this machine's clock is behind, in milliseconds.
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
    pub async fn read(&self, client: &Client) -> anyhow::Result<()> {
        let info = manage::stream_info(client, Stream::Jobs).await;
        let info = info.context("cannot read the server's clock")?;
        self.set(info.now);
        Ok(())
    }

    /// The server has just told its time.
    fn set(&self, server: Timestamp) {
        self.behind.store(
            server.milliseconds_ahead_of(Timestamp::now()),
            Ordering::Relaxed,
        );
    }
}
