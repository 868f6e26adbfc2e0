//! Knows of which jobs nothing can be known yet, so that nothing has to be looked up.
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

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use common::subjects;
use serde::Deserialize;
use serde_json::Value;

use crate::api;
use crate::lane::Shared;
use crate::puller::Pulled;
use crate::topology::Stream;

/// What is known of the messages in the queue.
#[derive(Default)]
pub(crate) struct Fresh {
    known: Option<Known>,
    /// The highest number of delivery of each queue.
    delivered: HashMap<usize, u64>,
}

struct Known {
    moment: Moment,
    /// All up to this sequence were stored before the moment.
    stored: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment {
    /// How often this consumer has connected to a server.
    connection: u64,
    /// How many cancellations it has heard of.
    cancellation: u64,
}

impl Moment {
    fn now(shared: &Shared) -> Self {
        Self {
            connection: shared.connections(),
            cancellation: shared.cancellations.load(Ordering::Acquire),
        }
    }
}

impl Fresh {
    /// Asks the server how far its queue goes, if what was known is out of date. Without an answer
    /// all jobs are looked up.
    pub(crate) async fn renew(&mut self, shared: &Shared) {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            last_seq: u64,
        }
        let moment = Moment::now(shared);
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.moment == moment)
        {
            return;
        }
        let info = format!("$JS.API.STREAM.INFO.{}", Stream::Jobs);
        let info = api::ask::<Info>(&shared.client, info, &Value::Null).await;
        self.known = info.ok().map(|info| Known {
            moment,
            stored: info.state.last_seq,
        });
    }

    /// A durable consumer is not what it was: all that is stored now is looked up.
    pub(crate) fn forget(&mut self) {
        self.known = None;
        self.delivered.clear();
    }

    /// Looks at the numbers of delivery: they rise, unless a durable consumer begins anew.
    pub(crate) fn see(&mut self, batch: &[Pulled]) {
        for pulled in batch {
            let highest = self.delivered.entry(pulled.queue).or_default();
            if pulled.consumer_sequence > *highest {
                *highest = pulled.consumer_sequence;
            } else {
                self.forget();
                return;
            }
        }
    }

    /// Tells, as of now, whether nobody can have had the job of a message.
    pub(crate) fn may_skip_look_up(&self, shared: &Shared) -> impl Fn(&Pulled) -> bool {
        // The same for all messages, and not cheap to find out.
        let after = self
            .known
            .as_ref()
            .filter(|known| known.moment == Moment::now(shared) && shared.is_alone())
            .map(|known| known.stored);
        move |pulled| {
            let headers = pulled.headers.as_ref();
            pulled.delivered == 1
                && shared.queues[pulled.queue].stream == Stream::Jobs
                && after.is_some_and(|after| pulled.stream_sequence > after)
                && headers.is_some_and(|headers| headers.get(subjects::FRESH_HEADER).is_some())
        }
    }
}
