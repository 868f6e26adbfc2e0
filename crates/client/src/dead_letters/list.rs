use connection::NatsClient;
use jetstream::{Stream, direct_get};

use super::failures::add_failures;
use super::{DeadLetter, Summary, Which, filter};

/// How many dead letters are read at a time.
const PAGE: usize = 100;

/// How many bytes of dead letters are read at a time.
const PAGE_BYTES: usize = 4 << 20;

/// Lists dead letters that match `which`, the oldest first, at most `most`. The list starts after the
/// position `after`: 0, or the [`Summary::position`] of the last dead letter of an earlier list.
///
/// # Errors
/// When the server does not answer in time.
pub async fn list(
    client: &NatsClient,
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

/// Dead letters with payloads and failures, from one read.
pub(super) struct Page {
    /// The dead letters that match, the oldest first.
    pub(super) letters: Vec<DeadLetter>,
    /// The position of the last dead letter that was read.
    pub(super) last: u64,
}

/// Reads the dead letters after a position, at most [`PAGE`]; `None` at the end.
pub(super) async fn page(
    client: &NatsClient,
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
