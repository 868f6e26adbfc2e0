use std::time::Duration;

use crate::handler::Attempt;
use crate::registry::{AnyHandler, Payload, Running};

/// Returns its payload as it was written, without reading it.
pub(crate) struct Echo;

impl AnyHandler for Echo {
    fn call<'a>(&'a self, payload: Payload<'a>, _: Attempt, wanted: bool) -> Running<'a> {
        let result = if wanted {
            payload.map(ToOwned::to_owned)
        } else {
            None
        };
        Running::ended(Ok(result))
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}
