//! Reads a stream from its end backwards.
//!
//! The server reads streams only forward. So the scan reads windows of sequences, from the end to the
//! beginning. The first windows are narrow; they become wider where they hold few messages. If a window
//! holds too much, only its newest part is read.

use std::collections::VecDeque;

use common::subjects;
use connection::NatsClient;
use jetstream::{StoredMessage, Stream, direct_get, manage};

/// The most messages that are read from one window.
const MOST: u64 = 1000;

/// How many bytes are read from one window; the last message may exceed it.
const BYTES: usize = 4 << 20;

/// How many bytes are read for one page. If the messages are large, a page may be short.
pub(crate) const PAGE_BYTES: usize = 64 << 20;

/// The server is asked to filter only if the stream has at most this many messages. For each request it
/// counts all messages that match, by subject, which takes half a second for a million.
const FEW: u64 = 50_000;

/// The least width of the first window.
const NARROW: u64 = 64;

/// Reads the messages of a stream, the newest first.
pub(crate) struct ReverseScan {
    client: NatsClient,
    stream: Stream,
    filter: String,
    /// How many messages the stream had at the start.
    messages: u64,
    /// The first sequence of the stream.
    first: u64,
    /// All messages from this sequence on were loaded.
    low: u64,
    /// Whether the first window is still to be read. It has no upper end: messages stored since the
    /// start belong to it.
    open: bool,
    width: u64,
    /// Whether the payloads of loaded messages are kept.
    payloads: bool,
    /// How many bytes of payloads were read.
    read: usize,
    loaded: VecDeque<StoredMessage>,
}

impl ReverseScan {
    /// Scans the messages below the sequence `before`, or all messages, whose subjects match a filter.
    /// `most` is about how many messages the caller wants.
    pub(crate) async fn new(
        client: &NatsClient,
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

    /// The same, but if the stream holds many messages, the scan does not filter: the caller has to.
    pub(crate) async fn roughly(
        client: &NatsClient,
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

    /// The same, but loaded messages are kept in memory without their payloads.
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

    /// Loads more messages, if all loaded ones were taken and the stream has more.
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

    /// Reads the messages between two sequences; if there are too many, only the newest of them. Also
    /// returns the sequence from which on all were read.
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
            // Read a narrower window, which starts after the messages read so far.
            let narrower = high.saturating_sub(high.saturating_sub(low) / 8 + 1);
            low = narrower.max(from);
        }
    }

    /// The newest loaded message that was not taken.
    pub(crate) fn peek(&self) -> Option<&StoredMessage> {
        self.loaded.front()
    }

    /// Takes the newest loaded message.
    pub(crate) fn take(&mut self) -> Option<StoredMessage> {
        self.loaded.pop_front()
    }

    /// If no loaded message is left, all messages from this sequence on were taken; 0 at the end of the
    /// scan.
    pub(crate) fn reached(&self) -> u64 {
        if self.low > self.first { self.low } else { 0 }
    }

    /// Whether all messages were taken.
    pub(crate) fn is_over(&self) -> bool {
        self.loaded.is_empty() && self.low <= self.first
    }
}

/// Whether a message is the overdue marker of a waiting job. There may be as many markers as records,
/// and no list shows markers.
fn is_marker(kept: &StoredMessage) -> bool {
    kept.subject.starts_with(subjects::OVERDUE)
}
