//! Answers for the consumer: `jobs.status`, the micro service API, and which kinds it serves.
//!
//! It has a thread, a runtime and a connection of its own. So it answers at once also when the
//! jobs' threads are busy, and no flood of jobs stands in the socket before a question.
//!
//! When the consumer stops, those who asked last are told once more how it is: what it did since
//! their question would otherwise be in nobody's totals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::{Beat, Context, Endpoint, Nats, Subscriber};
use bytes::Bytes;
use common::subjects;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::consumer::Consumer;

/// How many of those who asked for the status are told the last one: every status service that
/// runs, and a person or two.
const ASKERS: usize = 8;

/// How long the server may take to confirm the last status.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Starts answering; returns when questions are heard, with what becomes ready when the last word
/// was said after `stop`.
///
/// # Errors
/// When there can be no thread, or no connection to NATS.
pub(crate) async fn start(
    context: &Context,
    consumer: &Arc<Consumer>,
    stop: CancellationToken,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let (ready, started) = oneshot::channel();
    let (said, last_word) = oneshot::channel();
    let (context, consumer) = (context.clone(), Arc::clone(consumer));
    let health = context.health.clone();
    health.on_own_thread("control", async move |mut life| {
        let opening = Box::pin(Control::open(&context, &consumer));
        match life.during(Duration::MAX, opening).await {
            Ok(control) => {
                // The starter may be gone because the service was told to stop.
                let _ = ready.send(Ok(()));
                control.answer(&consumer, &stop, &mut life).await;
                // The consumer may not wait for it.
                let _ = said.send(());
            }
            Err(error) => drop(ready.send(Err(error))),
        }
        life.done();
    })?;
    started
        .await
        .context("the thread that answers jobs.status ended")??;
    Ok(last_word)
}

struct Control {
    nats: Nats,
    status: Endpoint,
    serves: SelectAll<Subscriber>,
}

impl Control {
    async fn open(context: &Context, consumer: &Consumer) -> anyhow::Result<Self> {
        let nats = context.connect("control").await?;
        // An endpoint always joins a queue group; in one of its own, each consumer answers.
        let group = uuid::Uuid::new_v4().simple().to_string();
        let status = context
            .register_endpoint(&nats, "status", group, subjects::STATUS)
            .await?;
        let mut serves = SelectAll::new();
        for served in consumer.served() {
            let subject = subjects::serves_kind(&served.kind);
            serves.push(
                nats.client
                    .queue_subscribe(subject, subjects::WORKERS.to_owned())
                    .await?,
            );
        }
        nats.confirm_subscriptions(subjects::STATUS).await;
        Ok(Self {
            nats,
            status,
            serves,
        })
    }

    async fn answer(mut self, consumer: &Consumer, stop: &CancellationToken, life: &mut Beat) {
        let mut askers = VecDeque::with_capacity(ASKERS);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = life.tick() => {}
                request = self.status.next() => {
                    let Some(reply) = consumer.reply_of(request.message.reply.clone()) else {
                        continue;
                    };
                    if let Err(error) = request.respond(Ok(status(consumer))).await {
                        warn!(%error, "a question on jobs.status was not answered");
                    }
                    if askers.len() == ASKERS {
                        askers.pop_front();
                    }
                    askers.push_back(reply);
                }
                Some(question) = self.serves.next() => {
                    if let Some(reply) = consumer.reply_of(question.reply)
                        && let Err(error) = self.nats.client.publish(reply, Bytes::new()).await
                    {
                        warn!(%error, "a question which kinds are served was not answered");
                    }
                }
            }
        }
        for reply in askers {
            // Whoever asked may be gone; the consumer is about to be.
            let _ = self.nats.client.publish(reply, status(consumer)).await;
        }
        if let Err(error) = self.nats.round_trip(LAST_WORD).await {
            warn!("the last status may be lost: {error:#}");
        }
    }
}

fn status(consumer: &Consumer) -> Bytes {
    let status = serde_json::to_vec(&consumer.status());
    status
        .expect("a status is plain data with text for keys")
        .into()
}
