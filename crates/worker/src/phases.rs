use tokio_util::sync::CancellationToken;

/// The phases of durable jobs in a consumer, from its start to its stop; clones are the same phases.
///
/// They pass in this order: begin, leave, left, end. Each is passed once and stays so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases {
    begin: CancellationToken,
    caught_up: CancellationToken,
    leave: CancellationToken,
    left: CancellationToken,
    end: CancellationToken,
}

impl Phases {
    /// Jobs may be taken.
    pub(crate) fn begin(&self) {
        self.begin.cancel();
    }

    /// Waits until jobs may be taken.
    pub(crate) async fn begun(&self) {
        self.begin.cancelled().await;
    }

    /// The requests to cancel that were waiting at the start are carried out.
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

    /// No more jobs are taken from now on.
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

    /// All jobs that the server had sent have arrived.
    pub(crate) fn set_left(&self) {
        self.left.cancel();
    }

    /// Waits until all jobs that the server had sent have arrived.
    pub(crate) async fn left(&self) {
        self.left.cancelled().await;
    }

    /// Everything ends, whether it is settled or not.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }

    /// Whether everything ends.
    pub(crate) fn is_ended(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Waits until everything ends.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }
}
