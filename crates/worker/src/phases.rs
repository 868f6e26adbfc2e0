use tokio_util::sync::CancellationToken;

/// The phases of the durable lane from its start to its stop; clones share the phases.
///
/// The order is: begin, leave, left, end. A phase that was entered stays entered. `caught_up` comes
/// at any time after the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases {
    begin: CancellationToken,
    caught_up: CancellationToken,
    leave: CancellationToken,
    left: CancellationToken,
    end: CancellationToken,
}

impl Phases {
    /// Allows the intake to take jobs.
    pub(crate) fn begin(&self) {
        self.begin.cancel();
    }

    /// Waits until jobs may be taken.
    pub(crate) async fn begun(&self) {
        self.begin.cancelled().await;
    }

    /// Notes that the cancel requests from before the start are carried out.
    pub(crate) fn catch_up(&self) {
        self.caught_up.cancel();
    }

    /// Whether [`Phases::catch_up`] was called.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.is_cancelled()
    }

    /// Waits for [`Phases::catch_up`].
    pub(crate) async fn caught_up(&self) {
        self.caught_up.cancelled().await;
    }

    /// Stops taking jobs.
    pub(crate) fn leave(&self) {
        self.leave.cancel();
    }

    /// Whether no more jobs are taken.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Waits until no more jobs are taken.
    pub(crate) async fn leaving(&self) {
        self.leave.cancelled().await;
    }

    /// Notes that all jobs that the server had sent have arrived.
    pub(crate) fn set_left(&self) {
        self.left.cancel();
    }

    /// Waits until all jobs that the server had sent have arrived.
    pub(crate) async fn left(&self) {
        self.left.cancelled().await;
    }

    /// Ends the lane, even if jobs are not settled.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }

    /// Whether [`Phases::end`] was called.
    pub(crate) fn is_ended(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Waits for [`Phases::end`].
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }
}
