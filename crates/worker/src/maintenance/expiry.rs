//! Removes the records of ended jobs when their time is over.
//!
//! With `sync_interval: always`, the server needs about thirty times as long to remove a message whose
//! time to live is over as for a message that a purge removes together with many others. So the
//! record of a job that had none before it ended has no time to live. Such records have a subject of
//! their own ([`subjects::ended`]), on which they lie in the order of their ends. Each consumer purges
//! those that are too old. It does no harm if several consumers do this at the same time.
//!
//! Consumers may keep records for different times. So each consumer says its time in a notice on
//! [`subjects::keep`], and the longest time counts for all. A notice has a time to live: it stays for as
//! long as records of its consumer may have to be kept.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bootstrap::{Beat, NatsClient};
use bytes::Bytes;
use common::subjects;
use jetstream::{Message, ServerClock, Stream, batch, direct_get, headers, manage};
use tokio::time::Instant;
use tracing::debug;

/// A round is made this many times while a record is kept, within these bounds.
const ROUNDS: u32 = 20;
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
const LONGEST_PERIOD: Duration = Duration::from_mins(1);

/// The most sequences that one request purges. The stream does nothing else meanwhile, for about a
/// tenth of a second.
const AT_ONCE: u64 = 20_000;

/// The wait after such a request, as a multiple of the time that it took.
const REST: u32 = 3;

/// How often the notice is stored again ...
const NOTICE_PERIOD: Duration = Duration::from_mins(5);

/// ... and for how much longer it stays than records are kept.
const NOTICE_MARGIN: Duration = Duration::from_mins(15);

/// The most notices that are read: one for each different time.
const MOST_NOTICES: usize = 1000;

/// The most bytes of notices that are read. A notice is empty.
const NOTICE_BYTES: usize = 1 << 20;

/// How long a round may take at most, apart from the purges.
const LONGEST_ROUND: Duration = Duration::from_mins(10);

pub(crate) struct Expiry {
    pub(crate) client: NatsClient,
    pub(crate) clock: Arc<ServerClock>,
    /// How long this consumer keeps the records of ended jobs.
    pub(crate) keep: Duration,
}

impl Expiry {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut noticed: Option<Instant> = None;
        loop {
            if noticed.is_none_or(|at| at.elapsed() >= NOTICE_PERIOD) {
                match life.during(LONGEST_ROUND, self.store_notice()).await {
                    Ok(()) => noticed = Some(Instant::now()),
                    Err(error) => debug!("cannot say how long records are kept: {error:#}"),
                }
            }
            let mut period = period(self.keep);
            if noticed.is_some() {
                match life.during(LONGEST_ROUND, self.remove_old()).await {
                    Ok(longest) => period = self::period(longest),
                    Err(error) => debug!("cannot remove old records: {error:#}"),
                }
            }
            // Jitter, so that consumers that were started together do not do this at the same time.
            let wait = period.mul_f64(0.5 + rand::random::<f64>());
            life.during(wait, tokio::time::sleep(wait)).await;
        }
    }

    async fn store_notice(&self) -> anyhow::Result<()> {
        let seconds = self.keep.as_secs();
        let mut headers = HeaderMap::new();
        let ttl = (self.keep + NOTICE_MARGIN).as_secs();
        headers.insert(headers::TTL, format!("{ttl}s"));
        let notice = Message {
            subject: subjects::keep(seconds),
            headers,
            payload: Bytes::new(),
        };
        batch::store(&self.client, vec![notice]).await?;
        Ok(())
    }

    /// Removes the records that are older than the longest time that a consumer keeps them, and
    /// returns this time.
    async fn remove_old(&self) -> anyhow::Result<Duration> {
        let client = &self.client;
        let keep = self.longest_keep().await?;
        let Some(oldest) = direct_get::next(client, Stream::State, subjects::ALL_ENDED, 1).await?
        else {
            return Ok(keep);
        };
        let age = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let since = self.clock.now().shifted(-age);
        if oldest.at >= since {
            return Ok(keep);
        }
        // A record that is stored from now on is not too old. So if no record is young enough, all up
        // to this sequence are too old.
        let last = manage::stream_info(client, Stream::State)
            .await?
            .state
            .last_sequence;
        let filter = subjects::ALL_ENDED;
        let young = direct_get::next_since(client, Stream::State, filter, since).await?;
        let end = young.map_or(last + 1, |young| young.sequence);
        let mut below = oldest.sequence;
        while below < end {
            below = end.min(below + AT_ONCE);
            let begun = Instant::now();
            manage::purge_below(client, Stream::State, filter, below).await?;
            tokio::time::sleep(begun.elapsed() * REST).await;
        }
        Ok(keep)
    }

    /// The longest time for which a consumer keeps the records of ended jobs.
    async fn longest_keep(&self) -> anyhow::Result<Duration> {
        let (stream, filter) = (Stream::State, subjects::ALL_KEEPS);
        let notices =
            direct_get::batch(&self.client, stream, filter, 1, MOST_NOTICES, NOTICE_BYTES).await?;
        // A notice is empty. Anybody can have the server's answer to a request stored here.
        let seconds = notices
            .iter()
            .filter(|notice| notice.payload.is_empty())
            .filter_map(|notice| subjects::parse_keep(&notice.subject));
        Ok(seconds
            .map(Duration::from_secs)
            .chain([self.keep])
            .max()
            .unwrap_or(self.keep))
    }
}

/// The average time between two rounds.
fn period(keep: Duration) -> Duration {
    (keep / ROUNDS).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
}
