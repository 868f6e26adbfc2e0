//! Reads a stream from its end backwards.
//!
//! The server gives messages forward only. So it is asked for windows of sequences, from the end
//! back to the beginning: narrow ones first, wider ones where there is little in them, and a part
//! of one that holds too much.

use std::collections::VecDeque;

use bootstrap::Client;
use common::subjects;
use jetstream::{StoredMessage, Stream, direct_get, manage};

/// The most messages that are read of one window.
const MOST: u64 = 1000;

/// How many bytes of one window are read; it may be a message more.
const BYTES: usize = 4 << 20;

/// How many bytes are read for one page: where the messages are large, it may be short.
pub(crate) const PAGE_BYTES: usize = 64 << 20;

/// How many messages a stream has at the most when the server is asked for those that match a
/// filter: each time it counts them all, by subject, which takes it half a second for a million.
const FEW: u64 = 50_000;

/// The narrowest window at first.
const NARROW: u64 = 64;

/// Messages of a stream, the newest first.
pub(crate) struct ReverseScan {
    client: Client,
    stream: Stream,
    filter: String,
    /// How many messages the stream had.
    messages: u64,
    /// The first sequence of the stream.
    first: u64,
    /// All from here on was loaded.
    low: u64,
    /// The end of the stream was not read yet: what has come since it was looked up belongs to it.
    open: bool,
    width: u64,
    /// Whether the payloads are wanted.
    payloads: bool,
    /// How many bytes of payloads were read.
    read: usize,
    loaded: VecDeque<StoredMessage>,
}

impl ReverseScan {
    /// Those below a sequence, or all, whose subjects match a filter; `most` is how many will be
    /// wanted, about.
    pub(crate) async fn new(
        client: &Client,
        stream: Stream,
        filter: String,
        before: Option<u64>,
        most: usize,
    ) -> anyhow::Result<Self> {
        let mut scan = Self {
            client: client.clone(),
            stream,
            filter,
            messages: 0,
            first: 0,
            low: 0,
            open: before.is_none(),
            width: (most as u64).saturating_mul(2).clamp(NARROW, MOST),
            payloads: true,
            read: 0,
            loaded: VecDeque::new(),
        };
        if before == Some(0) {
            return Ok(scan);
        }
        let info = manage::existing(manage::stream_info(client, stream).await)?;
        let Some(manage::StreamInfo { state, .. }) = info else {
            return Ok(scan);
        };
        scan.messages = state.messages;
        scan.first = state.first_sequence.max(1);
        let end = state.last_sequence.saturating_add(1);
        scan.low = before.map_or(end, |before| before.min(end));
        Ok(scan)
    }

    /// The same, but where the stream holds many the others come along: whoever asks has to tell
    /// them apart.
    pub(crate) async fn roughly(
        client: &Client,
        stream: Stream,
        filter: String,
        before: Option<u64>,
        most: usize,
    ) -> anyhow::Result<Self> {
        let mut scan = Self::new(client, stream, filter, before, most).await?;
        if scan.messages > FEW {
            ">".clone_into(&mut scan.filter);
        }
        Ok(scan)
    }

    /// The same without payloads: those that are loaded do not stay in memory.
    pub(crate) fn without_payloads(self) -> Self {
        Self {
            payloads: false,
            ..self
        }
    }

    /// How many bytes of payloads were read.
    pub(crate) fn bytes_read(&self) -> usize {
        self.read
    }

    /// Loads more, if nothing is left that was loaded and there is more.
    pub(crate) async fn fill(&mut self) -> anyhow::Result<()> {
        while self.loaded.is_empty() && self.low > self.first {
            let low = self.low.saturating_sub(self.width).max(self.first);
            let (found, low) = self.window(low, self.low).await?;
            if found.is_empty() {
                self.width = self.width.saturating_mul(4);
            } else if found.len() as u64 >= MOST / 2 {
                self.width = self.width.min(MOST);
            } else if (found.len() as u64) < NARROW / 2 {
                self.width = self.width.saturating_mul(2);
            }
            self.low = low;
            self.open = false;
            self.loaded.extend(found.into_iter().rev());
        }
        Ok(())
    }

    /// What is between two sequences, and from which one on: if there is too much, it is a part
    /// at the end.
    async fn window(
        &mut self,
        mut low: u64,
        high: u64,
    ) -> anyhow::Result<(Vec<StoredMessage>, u64)> {
        let top = if self.open { u64::MAX } else { high };
        loop {
            let (mut found, mut bytes, mut from) = (Vec::new(), 0, low);
            let whole = loop {
                let most = (top - from).min(MOST + 1 - found.len() as u64);
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                let (stream, filter) = (self.stream, &self.filter);
                let some =
                    direct_get::batch(&self.client, stream, filter, from, most, BYTES).await?;
                let Some(last) = some.last() else { break true };
                from = last.sequence + 1;
                let ended = from >= top || last.pending_after() == 0;
                let size = some.iter().map(|kept| kept.size).sum::<usize>();
                bytes += size;
                self.read = self.read.saturating_add(size);
                found.extend(
                    some.into_iter()
                        .filter(|kept| kept.sequence < top && !is_marker(kept))
                        .map(|kept| {
                            if self.payloads {
                                kept
                            } else {
                                kept.without_payload()
                            }
                        }),
                );
                if ended {
                    break true;
                }
                if found.len() as u64 > MOST || bytes >= BYTES {
                    break false;
                }
            };
            if whole {
                return Ok((found, low));
            }
            // Each time it is narrower, and begins after what was read.
            let narrower = high.saturating_sub(high.saturating_sub(low) / 8 + 1);
            low = narrower.max(from);
        }
    }

    /// The newest that was not taken, if it is loaded.
    pub(crate) fn peek(&self) -> Option<&StoredMessage> {
        self.loaded.front()
    }

    /// Takes the newest that is loaded.
    pub(crate) fn take(&mut self) -> Option<StoredMessage> {
        self.loaded.pop_front()
    }

    /// All from here on was taken, if nothing more is loaded; 0 if that is all there is.
    pub(crate) fn reached(&self) -> u64 {
        if self.low > self.first { self.low } else { 0 }
    }

    /// Whether nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.loaded.is_empty() && self.low <= self.first
    }
}

/// Whether it is a marker of a job that waits, of which there may be as many as records: nobody who
/// lists anything wants them.
fn is_marker(kept: &StoredMessage) -> bool {
    kept.subject.starts_with(subjects::OVERDUE)
}
