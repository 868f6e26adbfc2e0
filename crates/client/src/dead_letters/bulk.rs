//! Replays or discards many dead letters.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use connection::NatsClient;
use jetstream::{Stream, manage};
use tokio::time::{Interval, MissedTickBehavior};

use super::list::page;
use super::{DeadLetter, Replayed, Which, discard, replay};

/// The dead letters that match and existed at the start, the oldest first, at a limited rate.
///
/// ```no_run
/// use client::Client;
/// use client::dead_letters::{Action, DeadLetter, Remaining, Replayed, Which};
///
/// # async fn example(jobs: Client) -> Result<(), Box<dyn std::error::Error>> {
/// // All dead letters of a kind are replayed, at most ten in a second.
/// let which = Which { kind: Some("mail.send".parse()?), ..Which::default() };
/// let mut remaining = Remaining::new(jobs.nats(), &which, 10.try_into().ok()).await?;
/// while let Some(letter) = remaining.next().await? {
///     let letter: DeadLetter = letter;
///     if Action::Replay.apply(jobs.nats(), &letter).await? == Replayed::Already {
///         println!("{} was replayed by somebody else", letter.id);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Remaining<'a> {
    client: &'a NatsClient,
    which: &'a Which,
    pace: Option<Interval>,
    /// The position of the last dead letter that was read.
    after: u64,
    /// Dead letters after this position are newer than the start, and are left out.
    end: u64,
    page: VecDeque<DeadLetter>,
}

impl<'a> Remaining<'a> {
    /// Starts before the oldest dead letter. `rate` is the most dead letters per second.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn new(
        client: &'a NatsClient,
        which: &'a Which,
        rate: Option<NonZeroU32>,
    ) -> anyhow::Result<Self> {
        let pace = rate.map(|rate| {
            // An interval must not be zero, which a rate above 1,000,000,000 would give.
            let apart = (Duration::from_secs(1) / rate.get()).max(Duration::from_nanos(1));
            let mut pace = tokio::time::interval(apart);
            // After a slow step, the next steps do not catch up.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        Ok(Self {
            client,
            which,
            pace,
            after: 0,
            // Otherwise jobs that are replayed and given up again at once would keep it busy for ever.
            end: last_position(client).await?,
            page: VecDeque::new(),
        })
    }

    /// Waits until the rate allows the next dead letter, and returns it; `None` at the end. If this
    /// future is dropped, no dead letter is lost.
    ///
    /// # Errors
    /// When the letters cannot be listed.
    pub async fn next(&mut self) -> anyhow::Result<Option<DeadLetter>> {
        // A page may hold no dead letter that matches.
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

/// The last sequence of the stream now. A bulk action stops there.
async fn last_position(client: &NatsClient) -> anyhow::Result<u64> {
    let info = manage::stream_info(client, Stream::State).await?;
    Ok(info.state.last_sequence)
}

/// What to do with a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put its job into the queue again.
    Replay,
    /// Remove it for good.
    Discard,
}

impl Action {
    /// What was done, in one word.
    #[must_use]
    pub const fn did(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard => "discarded",
        }
    }

    /// Applies the action to one dead letter.
    ///
    /// # Errors
    /// Those of [`replay`] and [`discard`].
    pub async fn apply(self, client: &NatsClient, letter: &DeadLetter) -> anyhow::Result<Replayed> {
        match self {
            Self::Replay => replay(client, letter, None).await,
            Self::Discard => discard(client, letter).await.map(|()| Replayed::Yes),
        }
    }
}
