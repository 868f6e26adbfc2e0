use tracing::{debug, warn};

/// Logs the failures of work that is done again and again.
#[derive(Default)]
pub(super) struct Failures {
    has_warned: bool,
}

impl Failures {
    /// Logs a failure: the first one as a warning, those that follow it at level debug. `what` says what
    /// failed, such as "cannot look for overdue jobs".
    pub(super) fn note(&mut self, what: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.has_warned = false,
            Err(error) if std::mem::replace(&mut self.has_warned, true) => {
                debug!("{what}: {error:#}");
            }
            Err(error) => warn!(
                "{what}, trying again (further failures are not logged until this succeeds): {error:#}"
            ),
        }
    }
}
