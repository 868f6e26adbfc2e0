//! Decides when the record look-up can be skipped on a first delivery.
//!
//! Whoever makes an id for a job marks the job with [`subjects::FRESH_HEADER`] when he sends it the
//! first time. When such a message is delivered for the first time, nobody has had the job, with
//! these exceptions:
//!
//! - The server has crashed and forgotten that it delivered it, or the job was cancelled meanwhile.
//!   So whatever was stored before this connection, or before the last cancellation, is looked up.
//! - The durable consumer was made again, or reset, and begins anew. Its numbers of delivery do too.
//! - In a cluster another server than the one of this connection may have crashed. There all are
//!   looked up.
//!
//! If one of them is missed, or somebody marks a job that is not new, the job runs once more, and its
//! outcome stays what it was: a record is written only in the place of the one that was known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bootstrap::Client;
use common::subjects;
use jetstream::{Stream, manage};

use crate::fetch::Pulled;

/// The number of cancellations that this consumer has heard of; clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancellations(Arc<AtomicU64>);

impl Cancellations {
    pub(crate) fn heard_of_one(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What is known of the messages in the queue.
pub(crate) struct FirstDelivery {
    client: Client,
    cancellations: Cancellations,
    known: Option<Known>,
}

struct Known {
    moment: Moment,
    /// All messages up to this sequence were stored before the moment.
    stored: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment {
    /// How often this consumer has connected to a server.
    connection: u64,
    /// How many cancellations it has heard of.
    cancellation: u64,
}

impl FirstDelivery {
    pub(crate) fn new(client: Client, cancellations: Cancellations) -> Self {
        Self {
            client,
            cancellations,
            known: None,
        }
    }

    fn now(&self) -> Moment {
        Moment {
            connection: self.client.connects(),
            cancellation: self.cancellations.count(),
        }
    }

    /// Asks the server how far its queue goes, if what was known is out of date. Without an answer
    /// all jobs are looked up.
    pub(crate) async fn renew(&mut self) {
        let moment = self.now();
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.moment == moment)
        {
            return;
        }
        let info = manage::stream_info(&self.client, Stream::Jobs).await;
        self.known = info.ok().map(|info| Known {
            moment,
            stored: info.state.last_sequence,
        });
    }

    /// A durable consumer is not what it was: all that is stored now is looked up.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// Whether, as of now, the record look-up of a message can be skipped.
    pub(crate) fn may_skip_look_up<T>(&self) -> impl Fn(&Pulled<T>) -> bool + use<T> {
        // The same for all messages, and not cheap to find out. In a cluster another server than that
        // of this connection may have crashed.
        let after = self
            .known
            .as_ref()
            .filter(|known| known.moment == self.now() && is_single(&self.client))
            .map(|known| known.stored);
        move |pulled| {
            let headers = pulled.headers.as_ref();
            pulled.delivered == 1
                && pulled.queue.stream == Stream::Jobs
                && after.is_some_and(|after| pulled.stream_sequence > after)
                && headers.is_some_and(|headers| headers.get(subjects::FRESH_HEADER).is_some())
        }
    }
}

/// Whether the server of the connection is the only one, so that no other can crash beside it.
pub(crate) fn is_single(client: &Client) -> bool {
    client.server_info().cluster.is_none()
}
