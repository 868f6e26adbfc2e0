//! Does something with many dead letters.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use bootstrap::Client;
use jetstream::{Stream, manage};
use tokio::time::{Interval, MissedTickBehavior};

use super::list::page;
use super::{DeadLetter, Replayed, Which, discard, replay};

/// The dead letters that are meant and were there at the beginning, the oldest first, at most so
/// many a second.
#[derive(Debug)]
pub struct Remaining<'a> {
    client: &'a Client,
    which: &'a Which,
    pace: Option<Interval>,
    /// The position of the last one that was read.
    after: u64,
    /// What is behind this came later.
    end: u64,
    page: VecDeque<DeadLetter>,
}

impl<'a> Remaining<'a> {
    /// Begins in front of the oldest.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn new(
        client: &'a Client,
        which: &'a Which,
        rate: Option<NonZeroU32>,
    ) -> anyhow::Result<Self> {
        let pace = rate.map(|rate| {
            // There is no interval of nothing, which is what a rate beyond a thousand million gives.
            let apart = (Duration::from_secs(1) / rate.get()).max(Duration::from_nanos(1));
            let mut pace = tokio::time::interval(apart);
            // Never faster, also after one that took long.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        Ok(Self {
            client,
            which,
            pace,
            after: 0,
            // What is replayed and given up again at once would keep it busy for ever.
            end: last_position(client).await?,
            page: VecDeque::new(),
        })
    }

    /// The next one, once it is its time; none at the end. Who waits no longer loses none.
    ///
    /// # Errors
    /// When the letters cannot be listed.
    pub async fn next(&mut self) -> anyhow::Result<Option<DeadLetter>> {
        // Where few are meant, a page is a long way.
        while self.page.is_empty() && self.after < self.end {
            let Some(page) = page(self.client, self.which, self.after).await? else {
                self.after = self.end;
                break;
            };
            self.after = page.last;
            let meant = page.letters.into_iter();
            self.page = meant.filter(|letter| letter.sequence <= self.end).collect();
        }
        if let Some(pace) = self.pace.as_mut().filter(|_| !self.page.is_empty()) {
            pace.tick().await;
        }
        Ok(self.page.pop_front())
    }
}

/// The position after which there are no dead letters yet: whoever goes through all of them stops
/// there, or jobs that are replayed and given up again at once would keep it busy for ever.
async fn last_position(client: &Client) -> anyhow::Result<u64> {
    let info = manage::stream_info(client, Stream::State).await?;
    Ok(info.state.last_sequence)
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its job is put into the queue again.
    Replay,
    /// It is removed for good.
    Discard,
}

impl Action {
    /// What was done, in a word.
    #[must_use]
    pub const fn did(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard => "discarded",
        }
    }

    /// Does it with one letter.
    ///
    /// # Errors
    /// Those of [`replay`] and [`discard`].
    pub async fn apply(self, client: &Client, letter: &DeadLetter) -> anyhow::Result<Replayed> {
        match self {
            Self::Replay => replay(client, letter, None).await,
            Self::Discard => discard(client, letter).await.map(|()| Replayed::Yes),
        }
    }
}
