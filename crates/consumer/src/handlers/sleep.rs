use std::time::Duration;

use serde::Deserialize;

use crate::handler::{Attempt, Failure, Handler};

/// Waits for the time in its payload; it keeps its slot but no thread.
pub(crate) struct Sleep;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    /// The wait in milliseconds.
    ms: u64,
}

impl Handler for Sleep {
    const KIND: &'static str = "sleep";
    type Payload = Payload;
    type Output = ();

    async fn handle(&self, payload: Payload, _: Attempt) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(payload.ms)).await;
        Ok(())
    }
}
