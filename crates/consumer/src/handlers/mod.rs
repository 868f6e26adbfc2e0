//! The built-in handlers.

mod echo;
mod fail;
mod sha256;
mod sleep;

use crate::Registry;

pub(crate) fn built_in() -> Registry {
    Registry::new()
        .with_any("echo", Box::new(echo::Echo))
        .with(sleep::Sleep)
        .with(fail::Fail)
        .with(sha256::Sha256)
}
