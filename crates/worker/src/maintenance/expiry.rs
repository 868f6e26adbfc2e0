//! Removes the records of ended jobs when their time is over.
//!
//! With `sync_interval: always`, the server needs about thirty times as long to remove a message whose
//! time to live is over as for a message that a purge removes together with many others. So the
//! record of a job that had none before it ended has no time to live. Such records have subjects of
//! their own ([`subjects::ended`]), one for each [`Retention`], on which they lie in the order of their
//! ends. Each consumer purges those that are too old. It does no harm if several consumers do this at the
//! same time.

use std::time::Duration;

use bootstrap::{Beat, NatsClient};
use common::{Retention, subjects};
use jetstream::{Stream, direct_get, manage};
use tokio::time::Instant;

use super::failures::Failures;

/// The records of this consumer are looked at this many times in their retention, within these bounds.
/// Those of all other retentions are looked at once in the longest period.
const ROUNDS: u32 = 20;
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
const LONGEST_PERIOD: Duration = Duration::from_mins(1);

/// The most sequences that one request purges. The stream does nothing else meanwhile, for about a
/// tenth of a second.
const AT_ONCE: u64 = 20_000;

/// The wait after such a request, as a multiple of the time that it took.
const REST: u32 = 3;

/// How long a request and the wait after it may take. The request has its own time-out.
const LONGEST_STEP: Duration = Duration::from_mins(2);

pub(crate) struct Expiry {
    pub(crate) client: NatsClient,
    /// How long this consumer keeps the records of ended jobs.
    pub(crate) keep: Duration,
}

impl Expiry {
    pub(crate) async fn run(self, mut life: Beat) {
        let own = Retention::at_least(self.keep);
        let period = (own.time() / ROUNDS).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        let mut all_at = Instant::now();
        let mut failures = Failures::default();
        loop {
            let all = all_at <= Instant::now();
            if all {
                all_at = Instant::now() + LONGEST_PERIOD;
            }
            let mut result = Ok(());
            for retention in Retention::all().filter(|retention| all || *retention == own) {
                result = self.remove_old(retention, &mut life).await;
                if result.is_err() {
                    break;
                }
            }
            failures.note(
                "cannot remove the records of jobs that ended long ago",
                result,
            );
            // Jitter, so that consumers that were started together do not do this at the same time.
            let wait = period.mul_f64(0.5 + rand::random::<f64>());
            life.during(wait, tokio::time::sleep(wait)).await;
        }
    }

    /// Removes the records of this retention whose time is over.
    async fn remove_old(&self, retention: Retention, life: &mut Beat) -> anyhow::Result<()> {
        let (client, filter) = (&self.client, subjects::all_ended(retention));
        let from = |sequence| direct_get::next(client, Stream::State, &filter, sequence);
        let mut oldest = life.during(LONGEST_STEP, from(1)).await?;
        if oldest.is_none() {
            return Ok(());
        }
        // The time of the server, by which it stamps messages. Its last sequence is read before the first
        // record that stays is looked for: if there is none, all up to this sequence are too old.
        let info = manage::stream_info(client, Stream::State);
        let info = life.during(LONGEST_STEP, info).await?;
        let Some(since) = info.now.before(retention.time()) else {
            return Ok(());
        };
        let first_to_stay = direct_get::next_since(client, Stream::State, &filter, since);
        let first_to_stay = life.during(LONGEST_STEP, first_to_stay).await?;
        let end = match first_to_stay {
            Some(record) => record.sequence,
            None => info.state.last_sequence + 1,
        };
        while let Some(record) = oldest.filter(|record| record.sequence < end) {
            let below = end.min(record.sequence + AT_ONCE);
            life.during(LONGEST_STEP, async {
                let begun = Instant::now();
                manage::purge_below(client, Stream::State, &filter, below).await?;
                tokio::time::sleep(begun.elapsed() * REST).await;
                anyhow::Ok(())
            })
            .await?;
            oldest = life.during(LONGEST_STEP, from(below)).await?;
        }
        Ok(())
    }
}
