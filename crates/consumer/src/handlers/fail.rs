use common::Job;
use serde::{Deserialize, Serialize};

use crate::handler::{Attempt, Failure, Handler};

/// Fails in the way that its payload says, to test how failed jobs are handled.
pub(crate) struct Fail;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Payload {
    /// The text of the error.
    #[serde(default = "unspecified")]
    message: String,
    /// Whether the failure is permanent.
    #[serde(default)]
    permanent: bool,
}

fn unspecified() -> String {
    "the handler `fail` always fails".to_owned()
}

impl Job for Payload {
    const KIND: &'static str = "fail";
    type Output = ();
}

impl Handler for Fail {
    type Job = Payload;

    async fn handle(&self, payload: Payload, _: Attempt) -> Result<(), Failure> {
        let error = anyhow::Error::msg(payload.message);
        Err(if payload.permanent {
            Failure::permanent(error)
        } else {
            Failure::transient(error)
        })
    }
}
