//! Answers for the consumer: `jobs.status`, the micro service API, and which kinds it serves.
//!
//! It has a thread, a runtime and a connection of its own. So it answers at once also when the
//! jobs' threads are busy, and no flood of jobs stands in the socket before a question.

use std::sync::Arc;

use anyhow::Context as _;
use async_nats::service::endpoint::Endpoint;
use async_nats::{Subscriber, service};
use bootstrap::{Context, Nats};
use bytes::Bytes;
use common::subjects;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::Core;

/// Starts answering; returns when questions are heard. Ends with `stop`.
///
/// # Errors
/// When there can be no thread, or no connection to NATS.
pub(crate) async fn start(
    context: &Context,
    core: &Arc<Core>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (ready, started) = oneshot::channel();
    let (context, core) = (context.clone(), Arc::clone(core));
    let thread = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error.into()))),
        };
        runtime.block_on(async {
            match Control::open(&context, &core).await {
                Ok(control) => {
                    // The starter may be gone because the service was told to stop.
                    let _ = ready.send(Ok(()));
                    control.answer(&core, &stop).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(thread)
        .context("cannot start the thread that answers jobs.status")?;
    started
        .await
        .context("the thread that answers jobs.status ended")?
}

struct Control {
    nats: Nats,
    /// Dropping it would end the registration.
    _service: service::Service,
    status: Endpoint,
    serves: SelectAll<Subscriber>,
}

impl Control {
    async fn open(context: &Context, core: &Core) -> anyhow::Result<Self> {
        let nats = context.connect("control").await?;
        let service = context.register(&nats).await?;
        // An endpoint always joins a queue group; in one of its own, each consumer answers.
        let status = service
            .endpoint_builder()
            .name("status")
            .queue_group(core.instance.replace('.', "-"))
            .add(subjects::STATUS)
            .await
            .map_err(|error| {
                anyhow::anyhow!("cannot subscribe to {}: {error}", subjects::STATUS)
            })?;
        let mut serves = SelectAll::new();
        for served in core.served() {
            let subject = subjects::serves_kind(&served.kind);
            serves.push(
                nats.client
                    .queue_subscribe(subject, subjects::WORKERS.to_owned())
                    .await?,
            );
        }
        Ok(Self {
            nats,
            _service: service,
            status,
            serves,
        })
    }

    async fn answer(mut self, core: &Core, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = self.status.next() => {
                    let status = serde_json::to_vec(&core.status());
                    let status = status.expect("a status is plain data with text for keys");
                    if let Err(error) = request.respond(Ok(status.into())).await {
                        warn!(%error, "a question on jobs.status was not answered");
                    }
                }
                Some(question) = self.serves.next() => {
                    if let Some(reply) = core.reply_of(question.reply)
                        && let Err(error) = self.nats.client.publish(reply, Bytes::new()).await
                    {
                        warn!(%error, "a question which kinds are served was not answered");
                    }
                }
                else => return,
            }
        }
    }
}
