//! Does something with many dead letters.

use std::num::NonZeroU32;
use std::time::Duration;

use async_nats::Client;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{DeadLetter, PAGE, Replayed, Which, discard, last_position, list, replay};

/// Does something with each dead letter that is meant and was there at the beginning, the oldest
/// first, at most so many a second; what came of each is told. Ends when it is told to stop, after
/// the letter that it is at.
///
/// # Errors
/// When the letters cannot be listed.
pub async fn each(
    client: &Client,
    which: &Which,
    rate: Option<NonZeroU32>,
    stop: &CancellationToken,
    mut action: impl AsyncFnMut(&DeadLetter),
) -> anyhow::Result<()> {
    // What is replayed and given up again at once would keep it busy for ever.
    let end = last_position(client).await?;
    let mut pace = rate.map(|rate| {
        // There is no interval of nothing, which is what a rate beyond a thousand million gives.
        let apart = (Duration::from_secs(1) / rate.get()).max(Duration::from_nanos(1));
        let mut pace = tokio::time::interval(apart);
        // Never faster, also after one that took long.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    });
    let mut after = 0;
    while after < end {
        // Where few are meant, a page is a long way.
        let listing = stop.run_until_cancelled(list(client, which, after, PAGE));
        let Some(letters) = listing.await else {
            return Ok(());
        };
        let letters = letters?;
        let Some(last) = letters.last() else { break };
        after = last.position();
        for letter in letters.iter().filter(|letter| letter.position() <= end) {
            if let Some(pace) = &mut pace {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    _ = pace.tick() => {}
                }
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            action(letter).await;
        }
    }
    Ok(())
}

/// Replays all dead letters that are meant, at most so many a second, and says how many. One that
/// cannot be replayed is left as it is, and logged.
///
/// # Errors
/// When the letters cannot be listed, or some of them were left as they are.
pub async fn replay_all(
    client: &Client,
    which: &Which,
    rate: Option<NonZeroU32>,
    stop: CancellationToken,
    progress: impl FnMut(u64),
) -> anyhow::Result<u64> {
    all(client, which, rate, &stop, progress, async |letter| {
        Ok(replay(client, letter, None).await? == Replayed::Yes)
    })
    .await
}

/// Removes all dead letters that are meant for good, at most so many a second, and says how many.
/// One that cannot be removed is left as it is, and logged.
///
/// # Errors
/// When the letters cannot be listed, or some of them were left as they are.
pub async fn discard_all(
    client: &Client,
    which: &Which,
    rate: Option<NonZeroU32>,
    stop: CancellationToken,
    progress: impl FnMut(u64),
) -> anyhow::Result<u64> {
    all(client, which, rate, &stop, progress, async |letter| {
        discard(client, letter).await?;
        Ok(true)
    })
    .await
}

async fn all(
    client: &Client,
    which: &Which,
    rate: Option<NonZeroU32>,
    stop: &CancellationToken,
    mut progress: impl FnMut(u64),
    action: impl AsyncFn(&DeadLetter) -> anyhow::Result<bool>,
) -> anyhow::Result<u64> {
    let (mut done, mut failed) = (0, 0_u64);
    each(client, which, rate, stop, async |letter| {
        match action(letter).await {
            Ok(true) => {
                done += 1;
                progress(done);
            }
            // Somebody else has.
            Ok(false) => {}
            Err(error) => {
                failed += 1;
                warn!(job.id = %letter.id, "dead letter left as it is: {error:#}");
            }
        }
    })
    .await?;
    anyhow::ensure!(
        failed == 0,
        "{failed} dead letters were left as they are, and {done} were not"
    );
    Ok(done)
}
