//! Knows of which jobs nothing can be known yet, so that nothing has to be looked up.
//!
//! Whoever makes an id for a job marks the job with [`subjects::FRESH_HEADER`] when he sends it the
//! first time. When such a message is delivered for the first time, nobody has had the job: unless
//! the server has crashed and forgotten that it delivered it, or the job was cancelled meanwhile. So
//! whatever was stored before this connection, or before the last cancellation, is looked up all the
//! same.

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

    /// Whether nobody can have had the job of this message.
    pub(crate) fn is(&self, shared: &Shared, pulled: &Pulled) -> bool {
        let marked = || {
            let headers = pulled.headers.as_ref();
            headers.is_some_and(|headers| headers.get(subjects::FRESH_HEADER).is_some())
        };
        pulled.delivered == 1
            && shared.queues[pulled.queue].stream == Stream::Jobs
            && self.known.as_ref().is_some_and(|known| {
                pulled.stream_sequence > known.stored && known.moment == Moment::now(shared)
            })
            && marked()
    }
}
