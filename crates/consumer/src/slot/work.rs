use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use common::{ConsumerState, Timestamp, WireDuration};
use futures_util::FutureExt as _;
use tracing::error;
use worker::Lease;

use super::read::{self, KindFinder, NotRun, RunnableJob};
use crate::attempt_end::AttemptEnd;
use crate::consumer::Consumer;
use crate::core_lane;
use crate::core_lane::forward::Forwarder;
use crate::durable_lane;
use crate::handler::Attempt;
use crate::inbox::{CoreMessage, Share, WaitingJob};
use crate::lock::lock;
use crate::running::RunningJob;
use crate::settle;

/// A job that takes longer delays the rest of its batch too much, so the rest is put back.
const QUICK: Duration = Duration::from_micros(50);

/// How a job that a slot ran has finished.
enum Finished {
    /// The handler returned, failed, panicked or took too long.
    Ended(AttemptEnd),
    /// The durable job was cancelled.
    Cancelled(Arc<Lease>),
    /// The consumer stops.
    Interrupted,
}

impl Finished {
    fn settle(
        self,
        consumer: &Consumer,
        running: RunningJob,
        elapsed: Duration,
    ) -> Option<core_lane::Reply> {
        match self {
            Self::Ended(end) => settle::ended(consumer, running, elapsed, end),
            Self::Cancelled(lease) => {
                let served = &consumer.kinds[running.kind];
                durable_lane::settle::cancelled(consumer, served, (lease, running.span), elapsed);
                None
            }
            Self::Interrupted => settle::interrupted(consumer, running),
        }
    }
}

/// Waits until the job of a lease is cancelled; forever without a lease, because only durable
/// jobs can be cancelled.
async fn cancelled(lease: Option<&Arc<Lease>>) -> Arc<Lease> {
    match lease {
        Some(lease) => {
            lease.cancelled.cancelled().await;
            Arc::clone(lease)
        }
        None => std::future::pending().await,
    }
}

/// Runs jobs from the inbox in the slot of this number until the inbox is closed and empty.
pub(crate) async fn work(consumer: Arc<Consumer>, number: usize, forwarder: Forwarder) {
    let mut slot = Slot {
        consumer: &consumer,
        number,
        forwarder,
        share: Share::One,
        kinds: KindFinder::new(&consumer.kinds),
        next: None,
        now: Instant::now(),
        first_wait: None,
    };
    // A handler may also panic outside its call, for example in the destructor of a value that it
    // holds.
    while let Err(panic) = AssertUnwindSafe(slot.work()).catch_unwind().await {
        error!(slot = number, "a handler panicked outside its call");
        let running = lock(&consumer.slots[number]).running.take();
        if let Some(running) = running {
            let elapsed = running.started_at.elapsed();
            let end = AttemptEnd::from_call(Err(panic));
            let reply = settle::ended(&consumer, running, elapsed, end);
            core_lane::send(&consumer, reply).await;
        }
    }
}

/// One of the consumer's slots.
struct Slot<'a> {
    consumer: &'a Arc<Consumer>,
    /// Index of its shared state.
    number: usize,
    forwarder: Forwarder,
    /// How many jobs it takes next.
    share: Share,
    kinds: KindFinder<'a>,
    /// The next job of the batch, taken under the same lock as the last one was removed.
    next: Option<WaitingJob>,
    /// When the last job of the batch ended, which is when the next one begins: reading the clock
    /// costs as much as a short job.
    now: Instant,
    /// How long the first job of the batch with a `created_at` waited, and how many jobs share
    /// this wait: the batch came together, and the clock is read once.
    first_wait: Option<(Duration, u64)>,
}

impl Slot<'_> {
    async fn work(&mut self) {
        let consumer = self.consumer;
        let state = &consumer.slots[self.number];
        loop {
            while let Some(job) = self.next.take().or_else(|| lock(state).batch.pop_front()) {
                self.run(job).await;
                // Jobs that end at once would otherwise keep the thread from other tasks.
                tokio::task::coop::consume_budget().await;
            }
            self.record_waits();
            let Some(batch) = consumer.inbox.take(self.share).await else {
                return;
            };
            lock(state).batch = batch;
            if consumer.state.get() == ConsumerState::Saturated
                && consumer.inbox.has_drained_to_half()
            {
                consumer.state.inbox_drained.notify_one();
            }
            self.now = Instant::now();
        }
    }

    async fn run(&mut self, job: WaitingJob) {
        let consumer = self.consumer;
        if consumer.state.get() == ConsumerState::Draining
            && (!job.is_plain() || consumer.hard_stop.is_cancelled())
        {
            let interrupted = settle::not_started(consumer, job);
            return core_lane::send(consumer, interrupted).await;
        }
        let (mut core, payload);
        let read = match job {
            WaitingJob::Core(message) => {
                core = message;
                payload = std::mem::take(&mut core.payload);
                read::core(consumer, &mut self.kinds, &mut core, &payload)
            }
            WaitingJob::Durable(lease) => {
                if lease.unique_until_start && !Box::pin(self.release_key(&lease)).await {
                    return durable_lane::settle::give_back(consumer, lease);
                }
                core = CoreMessage::default();
                payload = lease.payload.clone();
                read::durable(consumer, &mut self.kinds, lease, &payload)
            }
        };
        match read {
            Ok(job) => self.execute(job).await,
            Err(NotRun::Settled(reply)) => core_lane::send(consumer, reply).await,
            Err(NotRun::Forward(job)) => {
                core.payload = payload;
                // Boxed, because it is rare and large: the future of a slot has room for all that
                // it awaits.
                Box::pin(self.forwarder.forward(consumer, core, job)).await;
            }
        }
    }

    /// Releases the key of a unique job that is about to start; false if it must not start now.
    async fn release_key(&mut self, lease: &Lease) -> bool {
        let consumer = self.consumer;
        // The rest of the batch need not wait for the server.
        let batch = std::mem::take(&mut lock(&consumer.slots[self.number]).batch);
        consumer.put_back(batch);
        let released = tokio::select! {
            released = consumer.durable.release_key(lease) => released,
            // The record of the job is final by now, and what is given back ends without a run.
            () = lease.cancelled.cancelled() => false,
            () = consumer.hard_stop.cancelled() => false,
        };
        self.now = Instant::now();
        released
    }

    /// Notes how long a job with this `created_at` waited.
    fn note_wait(&mut self, created_at: Option<Timestamp>) {
        if let Some((_, jobs)) = &mut self.first_wait {
            *jobs += 1;
        } else if let Some(created_at) = created_at {
            self.first_wait = Some((Timestamp::now().since(created_at), 1));
        }
    }

    fn record_waits(&mut self) {
        if let Some((wait, jobs)) = self.first_wait.take() {
            self.consumer.waits.add(wait, jobs);
        }
    }

    async fn execute(&mut self, runnable: RunnableJob<'_>) {
        let consumer = self.consumer;
        let RunnableJob {
            kind,
            id,
            attempt: number,
            job,
            origin,
            span,
        } = runnable;
        let served = &consumer.kinds[kind];
        let timeout = job.timeout.map_or(served.timeout, WireDuration::get);
        let lease = origin.lease().cloned();
        let counters = if lease.is_some() {
            &served.durable
        } else {
            self.note_wait(job.created_at);
            &served.core
        };
        let wanted = origin.wants_outcome();
        if number > 1 {
            counters.retried();
        }
        if let Some(lease) = &lease {
            lease.start();
        }
        let attempt = Attempt {
            id,
            number,
            timeout,
            trace: span.context().map(Arc::new),
            cancelled: lease.as_ref().map(|lease| lease.cancelled.clone()),
        };
        let started_at = self.now;
        let state = &consumer.slots[self.number];
        lock(state).running = Some(RunningJob {
            id,
            kind,
            attempt: number,
            started_at,
            origin,
            span,
        });

        // The call is dropped at the end of this block, before the job is settled. So an
        // interrupted program is killed before its outcome is published.
        let finished = {
            // A handler may panic before it returns a future, and in the text of its error.
            let call =
                async { AttemptEnd::from(served.handler.call(job.payload, attempt, wanted).await) };
            let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
            // Many jobs end at the first poll. Only a job that stays pending needs a time-out and
            // the stop signal, and gives the rest of its batch to other slots.
            match futures_util::poll!(call.as_mut()) {
                Poll::Ready(end) => Finished::Ended(AttemptEnd::from_call(end)),
                Poll::Pending => {
                    let batch = std::mem::take(&mut lock(state).batch);
                    consumer.put_back(batch);
                    self.record_waits();
                    tokio::select! {
                        biased;
                        end = tokio::time::timeout(timeout, call) => Finished::Ended(
                            end.map_or_else(
                                |_| AttemptEnd::timed_out(timeout),
                                AttemptEnd::from_call,
                            ),
                        ),
                        lease = cancelled(lease.as_ref()) => Finished::Cancelled(lease),
                        () = consumer.hard_stop.cancelled() => Finished::Interrupted,
                    }
                }
            }
        };
        self.now = Instant::now();
        let elapsed = self.now - started_at;
        self.share = if elapsed < QUICK {
            Share::Fair
        } else {
            Share::One
        };
        let (running, batch) = {
            let mut state = lock(state);
            let slow = self.share == Share::One && !state.batch.is_empty();
            if !slow {
                self.next = state.batch.pop_front();
            }
            (
                state.running.take(),
                slow.then(|| std::mem::take(&mut state.batch)),
            )
        };
        if let Some(batch) = batch {
            consumer.put_back(batch);
        }
        // An empty slot means that the stop has settled the job.
        let Some(running) = running else { return };
        let reply = finished.settle(consumer, running, elapsed);
        if wanted {
            core_lane::send(consumer, reply).await;
            self.now = Instant::now();
        }
    }
}
