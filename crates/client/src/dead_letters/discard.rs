use anyhow::Context as _;
use bootstrap::Client;
use common::{JobState, codes};
use jetstream::{NotStored, batch, records};

use super::change::{mark, now, record_of, remove};
use super::{DeadLetter, LeftAsItIs};
use crate::submit::MARGIN;

/// How long the record of a discarded job is kept: a week.
const KEPT: &str = "168h";

/// Removes a dead letter for good. The record of its job says so, and stays for a week.
///
/// # Errors
/// When the server does not answer in time, or somebody else is at it: [`LeftAsItIs::Busy`].
pub async fn discard(client: &Client, letter: &DeadLetter) -> anyhow::Result<()> {
    let (record, at) = tokio::join!(record_of(client, letter), now(client));
    let (mut record, expected) = record?;
    if record.state == JobState::Dead && record.run == letter.run && expected > 0 {
        // Whoever was interrupted here has written so already.
        if !record.is_discarded() {
            let discarded = mark(at?, codes::DISCARDED, "the dead letter was discarded");
            record.failures.push(discarded);
        }
        let limit = client.max_payload().saturating_sub(MARGIN);
        let record = records::encode(&record, limit);
        let message = records::message(letter.id, record, expected, Some(KEPT));
        match batch::store(client, vec![message]).await {
            Ok(_) => {}
            Err(NotStored::Conflict) => {
                return Err(LeftAsItIs::Busy(letter.id).into());
            }
            Err(error) => return Err(error).context("the letter was not discarded"),
        }
    }
    remove(client, letter).await
}
