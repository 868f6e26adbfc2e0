use async_nats::Subject;
use bytes::Bytes;
use common::{JobId, Outcome, OutcomeError, Status, codes};
use tracing::warn;

use crate::consumer::Consumer;

/// An outcome that is ready to be sent.
///
/// Jobs are settled by plain functions, which return this if there is a reply subject. So a slot
/// awaits nothing for plain publishes, and its future stays small.
#[must_use]
pub(crate) struct Reply {
    to: Subject,
    id: Option<JobId>,
    outcome: Bytes,
}

impl Reply {
    /// Encodes the outcome. One that does not fit into a message becomes a failure that says so.
    pub(super) fn new(consumer: &Consumer, to: Subject, mut outcome: Outcome) -> Self {
        let limit = consumer.nats.client.max_payload();
        let mut bytes = encoded(&outcome);
        if bytes.len() > limit {
            let size = bytes.len();
            outcome.status = Status::Failed;
            outcome.result = None;
            outcome.error = Some(OutcomeError::new(
                codes::RESULT_TOO_LARGE,
                format!(
                    "the job ran, but its outcome of {size} bytes is over the limit of {limit} bytes for a message"
                ),
            ));
            bytes = encoded(&outcome);
        }
        Self {
            to,
            id: outcome.id,
            outcome: bytes.into(),
        }
    }
}

/// Sends a reply, if there is one.
pub(crate) async fn send(consumer: &Consumer, reply: Option<Reply>) {
    let Some(Reply { to, id, outcome }) = reply else {
        return;
    };
    if let Err(error) = consumer.nats.client.publish(to, outcome).await {
        let id = id.map(tracing::field::display);
        warn!(job.id = id, %error, "cannot send the outcome of a job");
    }
}

fn encoded(outcome: &Outcome) -> Vec<u8> {
    serde_json::to_vec(outcome).expect("an outcome is plain data with string keys")
}
