//! Decides when the record look-up can be skipped on a first delivery.
//!
//! A submitter that generates the id of a new job sets [`common::subjects::FRESH_HEADER`] when it sends the
//! job for the first time. At the first delivery of such a message, no consumer has had the job
//! before, so the job has no record. There are these exceptions:
//!
//! - The server has crashed and has lost its count of deliveries, or the job was cancelled
//!   meanwhile. So the record is looked up if the message was stored before this consumer
//!   connected, or before the last cancel request that this consumer received.
//! - The durable consumer was created again or reset, and counts deliveries from one again. Then
//!   the record is looked up for every message that is stored by that time.
//! - In a cluster, another server than the one of this connection may have crashed. There, the
//!   record of every job is looked up.
//!
//! If one of these exceptions is missed, or if a submitter sets the header on a job that is not
//! new, the job runs once more. Its outcome does not change: the consumer expects that the job has
//! no record, so its write fails if there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bootstrap::NatsClient;
use jetstream::{Stream, headers, is_clustered, manage};

use crate::fetch::Pulled;

/// The number of cancel requests that this consumer has received; clones share the number.
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

/// Decides which messages of the queue need a record look-up.
pub(crate) struct FirstDelivery {
    client: NatsClient,
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
    /// How many cancel requests it has received.
    cancellation: u64,
}

impl FirstDelivery {
    pub(crate) fn new(client: NatsClient, cancellations: Cancellations) -> Self {
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

    /// Asks the server for the last sequence of the queue, if the connection or the number of
    /// cancel requests has changed. Without an answer, all records are looked up.
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

    /// Makes all messages that are stored now need a look-up, because a durable consumer was
    /// created again or reset.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// Whether, as of now, the record look-up of a message can be skipped.
    pub(crate) fn may_skip_look_up<T>(&self) -> impl Fn(&Pulled<T>) -> bool + use<T> {
        // Evaluated once for all messages, because it is not cheap. In a cluster, another server
        // than the one of this connection may have crashed.
        let after = self
            .known
            .as_ref()
            .filter(|known| known.moment == self.now() && !is_clustered(&self.client))
            .map(|known| known.stored);
        move |pulled| {
            pulled.delivered == 1
                && pulled.queue.stream == Stream::Jobs
                && after.is_some_and(|after| pulled.stream_sequence > after)
                && headers::is_fresh(pulled.headers.as_ref())
        }
    }
}
