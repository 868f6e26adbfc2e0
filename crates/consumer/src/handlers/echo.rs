use std::time::Duration;

use crate::any_handler::{AnyHandler, Call, Payload};
use crate::handler::Attempt;

/// Returns its payload unchanged, without parsing it.
pub(crate) struct Echo;

impl AnyHandler for Echo {
    fn call<'a>(&'a self, payload: Payload<'a>, _: Attempt, wanted: bool) -> Call<'a> {
        let result = if wanted {
            payload.map(ToOwned::to_owned)
        } else {
            None
        };
        Call::ended(Ok(result))
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}
