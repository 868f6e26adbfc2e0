use anyhow::Context as _;
use common::FailedAttempt;
use connection::NatsClient;
use jetstream::records::{self, Records};

use super::DeadLetter;

impl DeadLetter {
    pub(super) fn last_failure(&self) -> Option<&FailedAttempt> {
        self.failures.iter().rfind(|failure| !failure.is_mark())
    }
}

/// Adds the failures from the records of the jobs to dead letters that have none, and the reason if it
/// is missing. A dead letter has no failures if the job nearly fills the message. If the record is
/// missing, or cannot be read (which is logged), the dead letter stays as it is.
///
/// # Errors
/// When the server does not answer in time.
pub(super) async fn add_failures(
    client: &NatsClient,
    letters: &mut [DeadLetter],
) -> anyhow::Result<()> {
    let mut bare: Vec<_> = letters
        .iter_mut()
        .filter(|letter| letter.failures.is_empty())
        .collect();
    if bare.is_empty() {
        return Ok(());
    }
    let mut records = Records::new(client).await?;
    for some in bare.chunks_mut(records::MOST) {
        let ids: Vec<_> = some.iter().map(|letter| letter.id).collect();
        let mut found = records
            .of(ids)
            .await
            .context("cannot look up the records of dead letters")?;
        for letter in some {
            let record = found.remove(&letter.id).and_then(|found| found.record);
            if let Some(record) = record {
                letter.reason = letter.reason.or(record.reason);
                letter.failures = record.failures;
            }
        }
    }
    Ok(())
}
