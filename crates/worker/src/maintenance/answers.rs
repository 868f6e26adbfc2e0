//! Answers requests that are shared by all consumers.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bootstrap::{Beat, NatsClient};
use bytes::Bytes;
use common::subjects;
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

/// The wait before the subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The most requests that are answered at a time.
const CONCURRENT: usize = 16;

/// How requests of one sort are answered.
pub(super) trait Answers: Clone + Send + Sync + 'static {
    /// The subjects of the requests, with a wildcard.
    const SUBJECTS: &'static str;

    /// The answer to a request on a subject; `None` if there is none.
    fn answer(&self, subject: &str) -> impl Future<Output = Option<Bytes>> + Send;
}

/// Answers requests until the connection is closed for good.
pub(super) async fn run<A: Answers>(answers: A, client: NatsClient, mut life: Beat) {
    let mut requests = loop {
        let workers = subjects::WORKERS.to_owned();
        let subscribing = client.queue_subscribe(A::SUBJECTS, workers);
        match life.during(Duration::MAX, subscribing).await {
            Ok(requests) => break requests,
            Err(error) => {
                warn!(%error, "cannot subscribe to {}, trying again", A::SUBJECTS);
            }
        }
        tokio::time::sleep(RETRY).await;
    };
    let room = Arc::new(Semaphore::new(CONCURRENT));
    let mut answering = JoinSet::new();
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            Some(_answered) = answering.join_next() => continue,
            () = life.tick() => continue,
        };
        let Some(request) = request else { return };
        let room = Arc::clone(&room).acquire_owned();
        let Ok(permit) = life.during(Duration::MAX, room).await else {
            return;
        };
        let (client, answers) = (client.clone(), answers.clone());
        answering.spawn(async move {
            answer(&client, &answers, request).await;
            drop(permit);
        });
    }
}

/// Answers a request. Whoever gets no answer does not know whether it was done.
async fn answer(client: &NatsClient, answers: &impl Answers, request: Message) {
    let Some(reply) = request.reply else { return };
    // Nothing is published where jobs are: see the invariants in the architecture page.
    if ["jobs.", "jobs-", "$"]
        .iter()
        .any(|own| reply.starts_with(own))
    {
        return;
    }
    if let Some(body) = answers.answer(&request.subject).await {
        let _ = client.publish(reply, body).await;
    }
}
