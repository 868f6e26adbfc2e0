use serde::Deserialize;

use crate::handler::{Attempt, Failure, Handler};

/// Fails as its payload says, to try out what happens to failed jobs.
pub(crate) struct Fail;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    /// The text of the error.
    #[serde(default = "unspecified")]
    message: String,
    /// Whether the failure is permanent.
    #[serde(default)]
    permanent: bool,
}

fn unspecified() -> String {
    "told to fail".to_owned()
}

impl Handler for Fail {
    const KIND: &'static str = "fail";
    type Payload = Payload;
    type Output = ();

    async fn handle(&self, payload: Payload, _: Attempt) -> Result<(), Failure> {
        let error = anyhow::Error::msg(payload.message);
        Err(if payload.permanent {
            Failure::permanent(error)
        } else {
            Failure::transient(error)
        })
    }
}
