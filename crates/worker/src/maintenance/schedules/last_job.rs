use bootstrap::NatsClient;
use common::JobId;
use jetstream::{job_messages, records};

/// Whether a job that was submitted has ended. A job that nothing is known of has ended, too: its record has
/// expired, or there never was one.
pub(super) async fn has_ended(client: &NatsClient, id: JobId) -> anyhow::Result<bool> {
    // The job may end between two looks: its record is written before its message is removed.
    for _ in 0..2 {
        let stored = records::one(client, id).await?;
        if let Some(record) = stored.and_then(|stored| stored.record) {
            return Ok(record.state.is_final());
        }
        if job_messages::waiting(client, id).await?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}
