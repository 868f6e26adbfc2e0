//! What the slots, the intake and the stop of one consumer share.
//!
//! Each job touches several of these fields, so they stand in one struct behind one `Arc`. What
//! only one task needs belongs to that task.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bootstrap::{Context, Nats, Waits};
use common::{Counts, JobKind};
use tokio_util::sync::CancellationToken;

use crate::any_handler::AnyHandler;
use crate::config::Config;
use crate::core_lane::ReplyCheck;
use crate::counters::LaneCounters;
use crate::durable_lane::DurableJobs;
use crate::inbox::{Inbox, WaitingJob};
use crate::job_log::JobLog;
use crate::kinds::Kinds;
use crate::lock::lock;
use crate::running::SlotState;
use crate::state::State;

/// One consumer.
pub(crate) struct Consumer {
    /// The name of this instance.
    pub(crate) instance: String,
    pub(crate) nats: Nats,
    pub(crate) kinds: Kinds,
    pub(crate) state: State,
    pub(crate) inbox: Inbox,
    pub(crate) slots: Box<[Mutex<SlotState>]>,
    /// Cancelled when running jobs are to be interrupted.
    pub(crate) hard_stop: CancellationToken,
    /// Messages received, good or bad, of both lanes.
    received: AtomicU64,
    /// Counters of core jobs.
    pub(crate) core: LaneCounters,
    /// How long core jobs waited, since their `created_at`.
    pub(crate) waits: Waits,
    pub(crate) reply_check: ReplyCheck,
    pub(crate) durable: DurableJobs,
    pub(crate) log: JobLog,
}

impl Consumer {
    pub(crate) fn new(
        context: &Context,
        config: &Config,
        nats: Nats,
        handlers: BTreeMap<JobKind, Box<dyn AnyHandler>>,
    ) -> Self {
        let core = LaneCounters::new(handlers.keys());
        let durable = DurableJobs::new(LaneCounters::new(handlers.keys()));
        let slots: Box<[_]> = (0..config.concurrency())
            .map(|_| Mutex::default())
            .collect();
        let inbox_limit = usize::try_from(config.inbox.get()).unwrap_or(usize::MAX);
        Self {
            instance: context.instance.clone(),
            nats,
            kinds: Kinds::new(handlers, config, &core, &durable.counters),
            state: State::new(),
            inbox: Inbox::new(inbox_limit, slots.len()),
            slots,
            hard_stop: CancellationToken::new(),
            received: AtomicU64::new(0),
            core,
            waits: Waits::default(),
            reply_check: ReplyCheck::default(),
            durable,
            log: JobLog::default(),
        }
    }

    pub(crate) fn count_received(&self, messages: u64) {
        self.received.fetch_add(messages, Ordering::Relaxed);
    }

    /// How many messages were received, good or bad.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Puts the batch of a slot whose job takes long back into the inbox, and notifies the intake
    /// if that fills the inbox.
    pub(crate) fn put_back(&self, batch: VecDeque<WaitingJob>) {
        self.inbox.put_back(batch);
        if self.inbox.is_full() {
            self.state.inbox_full.notify_one();
        }
    }

    /// How many jobs run, and how many wait: core jobs in the inbox, and jobs of both lanes in the
    /// batches of the slots. Durable jobs in the inbox are not counted.
    pub(crate) fn in_flight_and_waiting(&self) -> (usize, usize) {
        let (mut in_flight, mut waiting) = (0, self.inbox.waiting());
        for slot in &self.slots {
            let slot = lock(slot);
            in_flight += usize::from(slot.running.is_some());
            waiting += slot.batch.len();
        }
        (in_flight, waiting)
    }

    /// The counters of both lanes together.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.core.counts();
        counts += self.durable.counters.counts();
        counts
    }
}
