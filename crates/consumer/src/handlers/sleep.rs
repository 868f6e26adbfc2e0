use std::time::Duration;

use common::Job;
use serde::{Deserialize, Serialize};

use crate::handler::{Attempt, Failure, Handler};

/// Waits for the time in its payload; it keeps its slot but no thread.
pub(crate) struct Sleep;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Payload {
    /// The wait in milliseconds.
    ms: u64,
}

impl Job for Payload {
    const KIND: &'static str = "sleep";
    type Output = ();
}

impl Handler for Sleep {
    type Job = Payload;

    async fn handle(&self, payload: Payload, _: Attempt) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(payload.ms)).await;
        Ok(())
    }
}
