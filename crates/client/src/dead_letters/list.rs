use bootstrap::Client;
use jetstream::{Stream, direct_get};

use super::failures::add_failures;
use super::{DeadLetter, Summary, Which, filter};

/// How many are read at a time.
const PAGE: usize = 100;

/// How many bytes they may have together.
const PAGE_BYTES: usize = 4 << 20;

/// Dead letters, the oldest first, at most `most`; from the one after `after` on, which is the
/// [`Summary::position`] of the last one that was seen.
///
/// # Errors
/// When the server does not answer in time.
pub async fn list(
    client: &Client,
    which: &Which,
    mut after: u64,
    most: usize,
) -> anyhow::Result<Vec<Summary>> {
    let mut letters = Vec::new();
    while letters.len() < most
        && let Some(page) = page(client, which, after).await?
    {
        after = page.last;
        let wanted = page.letters.iter().map(DeadLetter::summary);
        letters.extend(wanted.take(most - letters.len()));
    }
    Ok(letters)
}

/// Some dead letters with all that they hold.
pub(super) struct Page {
    /// Those that are meant, the oldest first.
    pub(super) letters: Vec<DeadLetter>,
    /// The position of the last one that was read.
    pub(super) last: u64,
}

/// The dead letters after a position, as many as are read at a time; nothing at the end.
pub(super) async fn page(
    client: &Client,
    which: &Which,
    after: u64,
) -> anyhow::Result<Option<Page>> {
    let (filter, from) = (filter(which.kind.as_ref()), after + 1);
    let read = direct_get::batch(client, Stream::State, &filter, from, PAGE, PAGE_BYTES).await?;
    let Some(last) = read.last().map(|kept| kept.sequence) else {
        return Ok(None);
    };
    let mut letters: Vec<_> = read.into_iter().filter_map(DeadLetter::of).collect();
    add_failures(client, &mut letters).await?;
    letters.retain(|letter| which.is(letter));
    Ok(Some(Page { letters, last }))
}
