use client::{Stream, StreamDepth};

/// How many jobs the durable lane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Jobs that wait for a consumer or run, and those that ended in the last seconds.
    pub(crate) queued: u64,
    /// Jobs that wait for their time, or whose time has come.
    pub(crate) later: u64,
}

impl Depth {
    /// What there is in the streams, where both are that hold jobs.
    pub(crate) fn of(streams: &[StreamDepth]) -> Option<Self> {
        let messages = |stream| {
            let mut depths = streams.iter().filter(|depth| depth.stream == stream);
            depths.next().map(|depth| depth.messages)
        };
        Some(Self {
            queued: messages(Stream::Jobs)?,
            later: messages(Stream::Later)?,
        })
    }
}
