use serde::Deserialize;

use crate::handler::{Attempt, Failure, Handler};

/// Fails in the way that it is told, to see what becomes of jobs that do.
pub(crate) struct Fail;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    /// What the error says.
    #[serde(default = "unspecified")]
    message: String,
    /// Whether no repetition can cure it.
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
