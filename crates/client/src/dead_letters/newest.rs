//! The newest dead letters, and how many there are.

use std::fmt;
use std::str::FromStr;

use common::subjects;
use connection::NatsClient;
use jetstream::{StoredMessage, Stream, direct_get};

use super::failures::add_failures;
use super::{DeadLetter, Summary, Which, filter};
use crate::cursor::BadCursor;
use crate::reverse_scan::{PAGE_BYTES, ReverseScan};

/// The most dead letters that are read for one page. If the filter matches few of them, a page may be
/// short or empty although more follow.
const LOOKED_AT: usize = 5000;

/// How many dead letters are read before they are matched against the filter.
const CHUNK: usize = 256;

/// How many dead letters are on a page that is only counted.
const COUNTED: usize = 500;

/// A position in the list of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The sequence down to which dead letters were read.
    seen: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.seen)
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let seen = u64::from_str_radix(text, 16).map_err(|_| BadCursor)?;
        let cursor = Self { seen };
        // A number has one spelling: no sign, no leading zeros, lower case.
        (cursor.to_string() == text)
            .then_some(cursor)
            .ok_or(BadCursor)
    }
}

/// A page of dead letters.
///
/// ```no_run
/// use client::dead_letters::{Cursor, Letters, Summary, Which, newest};
///
/// # async fn example(jobs: client::Client) -> anyhow::Result<()> {
/// let page: Letters = newest(jobs.nats(), &Which::default(), None, 20).await?;
/// for letter in &page.letters {
///     let letter: &Summary = letter;
///     println!("{} {}", letter.at, letter.id);
/// }
/// let next: Option<Cursor> = page.next;
/// # let _ = next;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Letters {
    /// The dead letters, the newest first.
    pub letters: Vec<Summary>,
    /// Where the next page starts; absent at the end.
    pub next: Option<Cursor>,
    /// How many dead letters were read for this page.
    pub looked_at: usize,
}

/// The dead letters that match `which`, the newest first, from the position of the cursor; at most
/// `most`.
///
/// # Errors
/// When the server does not answer in time.
pub async fn newest(
    client: &NatsClient,
    which: &Which,
    cursor: Option<Cursor>,
    most: usize,
) -> anyhow::Result<Letters> {
    within(client, which, cursor, most, LOOKED_AT).await
}

/// The same as [`newest`], but reads at most `looked_at` dead letters.
pub(super) async fn within(
    client: &NatsClient,
    which: &Which,
    cursor: Option<Cursor>,
    most: usize,
    looked_at: usize,
) -> anyhow::Result<Letters> {
    let before = cursor.map(|cursor| cursor.seen);
    let subjects = filter(which.kind.as_ref());
    let scan = ReverseScan::new(client, Stream::State, subjects, before, most).await?;
    let mut scan = scan.without_payloads();
    let mut page = Letters {
        letters: Vec::new(),
        next: None,
        looked_at: 0,
    };
    let mut seen = before.unwrap_or(u64::MAX);
    let mut rest = false;
    let enough = |scan: &ReverseScan| scan.bytes_read() >= PAGE_BYTES && scan.peek().is_none();
    while page.letters.len() < most && page.looked_at < looked_at && !enough(&scan) {
        let mut some = Vec::new();
        let mut sequences = Vec::new();
        let chunk = CHUNK.min(most).min(looked_at - page.looked_at);
        while sequences.len() < chunk && !enough(&scan) {
            scan.fill().await?;
            let Some(kept) = scan.take() else { break };
            sequences.push(kept.sequence);
            some.extend(DeadLetter::of(kept));
        }
        let Some(last) = sequences.last() else { break };
        add_failures(client, &mut some).await?;
        page.looked_at += sequences.len();
        seen = *last;
        for letter in some.into_iter().filter(|letter| which.is(letter)) {
            if page.letters.len() == most {
                // This dead letter is the first of the next page.
                rest = true;
                break;
            }
            seen = if page.letters.len() + 1 == most {
                letter.sequence
            } else {
                seen
            };
            page.letters.push(letter.summary());
        }
        rest |= page.letters.len() == most && seen > *last;
    }
    let more = rest || !scan.is_over();
    page.next = more.then(|| Cursor {
        seen: if !rest && scan.peek().is_none() {
            scan.reached()
        } else {
            seen
        },
    });
    Ok(page)
}

/// How many dead letters there are.
///
/// # Errors
/// When the server does not answer in time.
pub async fn count(client: &NatsClient) -> anyhow::Result<u64> {
    let first = direct_get::batch(client, Stream::State, subjects::ALL_DEAD, 1, 1, 1).await?;
    let after = first.first().map(StoredMessage::pending_after);
    Ok(after.map_or(0, |after| after.saturating_add(1)))
}

/// How many dead letters match.
///
/// # Errors
/// When the server does not answer in time.
pub async fn count_matching(client: &NatsClient, which: &Which) -> anyhow::Result<u64> {
    if which.kind.is_none() && which.reason.is_none() && which.error.is_none() {
        return count(client).await;
    }
    let (mut count, mut cursor) = (0, None);
    loop {
        let page = newest(client, which, cursor, COUNTED).await?;
        count += page.letters.len() as u64;
        cursor = page.next;
        if cursor.is_none() {
            return Ok(count);
        }
    }
}
