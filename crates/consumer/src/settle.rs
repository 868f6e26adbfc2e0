//! Answers whoever asked for the outcome of a job. A plain publish asks for nothing and gets no
//! answer.

use async_nats::{HeaderMap, Subject};
use common::{Job, JobId, Outcome, OutcomeError, Status, codes, subjects};
use tracing::warn;

use crate::core::Core;
use crate::inbox::Delivery;

/// Which submission of its job a message is, from 1.
pub(crate) fn attempt_of(headers: Option<&HeaderMap>) -> u32 {
    headers
        .and_then(|headers| headers.get(subjects::ATTEMPT_HEADER))
        .and_then(|value| value.as_str().parse().ok())
        .filter(|attempt| *attempt > 0)
        .unwrap_or(1)
}

/// Sends an outcome.
pub(crate) async fn answer(core: &Core, reply: Subject, mut outcome: Outcome) {
    let limit = core.client.max_payload();
    let mut bytes = written(&outcome);
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
        bytes = written(&outcome);
    }
    if let Err(error) = core.client.publish(reply, bytes.into()).await {
        let id = outcome.id.map(tracing::field::display);
        warn!(job.id = id, %error, "the outcome of a job could not be sent");
    }
}

fn written(outcome: &Outcome) -> Vec<u8> {
    serde_json::to_vec(outcome).expect("an outcome is plain data with text for keys")
}

/// Answers with `busy` or `interrupted` for a job that was not started.
pub(crate) async fn hand_back(
    core: &Core,
    id: Option<JobId>,
    attempt: u32,
    reply: Subject,
    status: Status,
) {
    let error = match status {
        Status::Busy => {
            OutcomeError::new(codes::BUSY, "the consumer is full; submit the job again")
        }
        _ => OutcomeError::new(
            codes::INTERRUPTED,
            "the consumer stopped before the job was done; submit it again",
        ),
    };
    let outcome = Outcome {
        id,
        status,
        consumer: core.instance.clone(),
        attempt,
        result: None,
        error: Some(error),
        duration_ms: 0.0,
    };
    answer(core, reply, outcome).await;
}

/// The same for a job that was not read yet.
pub(crate) async fn hand_back_unread(core: &Core, delivery: Delivery, status: Status) {
    let Some(reply) = delivery.reply else { return };
    let id = Job::decode(&delivery.payload).ok().and_then(|job| job.id);
    hand_back(
        core,
        id,
        attempt_of(delivery.headers.as_deref()),
        reply,
        status,
    )
    .await;
}
