use std::time::Duration;

use crate::handler::Attempt;
use crate::registry::{AnyHandler, Payload, Running};

/// Returns its payload as it was written, without reading it.
pub(crate) struct Echo;

impl AnyHandler for Echo {
    fn call(&self, payload: Payload, _: Attempt, _: bool) -> Running<'_> {
        Box::pin(std::future::ready(Ok(payload)))
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}
