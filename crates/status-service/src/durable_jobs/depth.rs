use client::{Stream, StreamDepth};
use tracing::info;

/// How many durable jobs the server stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    /// Jobs that wait for a consumer or run, and those that ended in the last seconds.
    pub(super) queued: u64,
    /// Jobs that wait for their time, or whose time has come.
    pub(super) scheduled: u64,
}

impl Depth {
    /// The depth of these streams; `None` if one of the two that hold jobs is missing.
    pub(super) fn of(streams: &[StreamDepth]) -> Option<Self> {
        let messages = |stream| {
            let mut depths = streams.iter().filter(|depth| depth.stream == stream);
            depths.next().map(|depth| depth.without_ticks)
        };
        Some(Self {
            queued: messages(Stream::Jobs)?,
            scheduled: messages(Stream::Later)?,
        })
    }

    pub(super) fn log(self) {
        info!(
            queued = self.queued,
            scheduled = self.scheduled,
            "durable jobs"
        );
    }
}
