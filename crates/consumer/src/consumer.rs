//! What intake, slots, control and shutdown of one consumer share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Subject;
use bootstrap::trace::Span;
use bootstrap::{Context, Nats, Waits};
use common::{ConsumerState, ConsumerStatus, Counts, JobId, JobKind, Timestamp, subjects};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use worker::{Lane, Lease};

use crate::config::Config;
use crate::inbox::{Delivery, Inbox};
use crate::job_log::JobLog;
use crate::registry::AnyHandler;
use crate::report::{KindReport, LaneReport};

/// One consumer.
pub(crate) struct Consumer {
    pub(crate) instance: String,
    host: String,
    version: &'static str,
    started: (Timestamp, Instant),
    pub(crate) nats: Nats,
    /// In the order of their kinds.
    served: Vec<Served>,

    pub(crate) inbox: Inbox,
    state: AtomicU8,
    /// Told when the inbox has become full.
    pub(crate) full: Notify,
    /// Told when a full inbox has room again.
    pub(crate) room: Notify,
    /// Cancelled when running jobs are given up.
    pub(crate) hard_stop: CancellationToken,
    pub(crate) slots: Box<[Mutex<SlotState>]>,
    /// Bounds the jobs that are passed on at a time.
    pub(crate) forwards: Arc<Semaphore>,

    pub(crate) report: LaneReport,
    /// The durable lane, as soon as it is there, and if there is one.
    pub(crate) lane: OnceLock<Lane>,
    /// Jobs of the durable lane that wait in here or run.
    pub(crate) durable_jobs: AtomicUsize,
    pub(crate) durable_report: LaneReport,
    /// How long jobs of `jobs.create` waited since they were made.
    pub(crate) waits: Waits,
    received: AtomicU64,
    pub(crate) log: JobLog,
    warned_of_reply: AtomicBool,
}

/// A kind that this consumer runs.
pub(crate) struct Served {
    pub(crate) kind: JobKind,
    pub(crate) handler: Box<dyn AnyHandler>,
    /// The longest run of an attempt at a job that does not say so itself.
    pub(crate) timeout: Duration,
    pub(crate) report: Arc<KindReport>,
    pub(crate) durable_report: Arc<KindReport>,
}

/// A slot as all can see it.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// What it runs. It is taken by whoever settles the job, so that a job which outlives the
    /// grace period is settled once.
    pub(crate) started: Option<Started>,
    /// What it took from the inbox together with that.
    pub(crate) batch: VecDeque<Delivery>,
}

/// A job that runs.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) id: JobId,
    /// The place of its kind among those that are served.
    pub(crate) served: usize,
    pub(crate) attempt: u32,
    pub(crate) at: Instant,
    pub(crate) origin: Origin,
    pub(crate) span: Span,
}

/// Where a job that runs is from, and with it how it is settled.
#[derive(Debug)]
pub(crate) enum Origin {
    /// From `jobs.create`, or the subject of its kind.
    Core {
        /// Reply subject; `None` for a plain publish.
        reply: Option<Subject>,
    },
    /// From the durable lane.
    Durable(Arc<Lease>),
}

impl Origin {
    pub(crate) fn lease(&self) -> Option<&Arc<Lease>> {
        match self {
            Self::Core { .. } => None,
            Self::Durable(lease) => Some(lease),
        }
    }

    /// Whether anybody hears how the job ends.
    pub(crate) fn wants_outcome(&self) -> bool {
        !matches!(self, Self::Core { reply: None })
    }
}

impl Consumer {
    pub(crate) fn new(
        context: &Context,
        config: &Config,
        nats: Nats,
        handlers: BTreeMap<JobKind, Box<dyn AnyHandler>>,
    ) -> Self {
        let report = LaneReport::new(handlers.keys());
        let durable_report = LaneReport::new(handlers.keys());
        let served: Vec<_> = handlers
            .into_iter()
            .filter_map(|(kind, handler)| {
                let report = report.kind(&kind)?;
                let durable_report = durable_report.kind(&kind)?;
                let timeout = handler.timeout().unwrap_or(config.timeout);
                Some(Served {
                    kind,
                    handler,
                    timeout,
                    report,
                    durable_report,
                })
            })
            .collect();
        let slots: Box<[_]> = (0..config.concurrency())
            .map(|_| Mutex::default())
            .collect();
        let inbox_limit = usize::try_from(config.inbox.get()).unwrap_or(usize::MAX);
        Self {
            instance: context.instance.clone(),
            host: context.host(),
            version: context.about.version,
            started: (Timestamp::now(), Instant::now()),
            nats,
            served,
            inbox: Inbox::new(inbox_limit, slots.len()),
            state: AtomicU8::new(ConsumerState::Running as u8),
            full: Notify::new(),
            room: Notify::new(),
            hard_stop: CancellationToken::new(),
            slots,
            forwards: Arc::new(Semaphore::new(crate::forward::LIMIT as usize)),
            report,
            lane: OnceLock::new(),
            durable_jobs: AtomicUsize::new(0),
            durable_report,
            waits: Waits::default(),
            received: AtomicU64::new(0),
            log: JobLog::default(),
            warned_of_reply: AtomicBool::new(false),
        }
    }

    /// The place of a kind among those that are served.
    pub(crate) fn place_of(&self, kind: &JobKind) -> Option<usize> {
        self.served
            .binary_search_by(|served| served.kind.cmp(kind))
            .ok()
    }

    /// The kinds that are served, each at its place.
    pub(crate) fn served(&self) -> &[Served] {
        &self.served
    }

    pub(crate) fn state(&self) -> ConsumerState {
        match self.state.load(Ordering::Acquire) {
            state if state == ConsumerState::Draining as u8 => ConsumerState::Draining,
            state if state == ConsumerState::Saturated as u8 => ConsumerState::Saturated,
            _ => ConsumerState::Running,
        }
    }

    /// Moves between running and saturated; draining is the last state.
    pub(crate) fn become_state(&self, state: ConsumerState) {
        // Nothing to do if it drains: that is what the refused update says.
        let _ = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now != ConsumerState::Draining as u8).then_some(state as u8)
            });
    }

    pub(crate) fn count_received(&self, messages: u64) {
        self.received.fetch_add(messages, Ordering::Relaxed);
    }

    /// How many messages reached it.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Puts back into the inbox what a slot cannot get to, which may fill it.
    pub(crate) fn give_back(&self, batch: VecDeque<Delivery>) {
        self.inbox.give_back(batch);
        if self.inbox.is_full() {
            self.full.notify_one();
        }
    }

    /// How many jobs run, and how many wait in the inbox and in batches of slots.
    pub(crate) fn in_flight_and_waiting(&self) -> (usize, usize) {
        let mut sums = (0, self.inbox.waiting());
        for slot in &self.slots {
            let slot = lock(slot);
            sums.0 += usize::from(slot.started.is_some());
            sums.1 += slot.batch.len();
        }
        sums
    }

    /// How jobs ended, of both lanes.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.report.counts();
        counts += self.durable_report.counts();
        counts
    }

    /// The report of a kind in the lane that a job is from.
    pub(crate) fn report_of(&self, place: usize, durable: bool) -> &KindReport {
        let served = &self.served[place];
        if durable {
            &served.durable_report
        } else {
            &served.report
        }
    }

    /// Where the answer to a message goes, if its sender asked for one.
    ///
    /// NATS does not check whether a sender may publish to the reply subject that it names. An
    /// answer into the subjects of this system or of the server would let anyone who may submit
    /// jobs speak there with a consumer's rights, so such a message counts as one without.
    pub(crate) fn reply_of(&self, reply: Option<Subject>) -> Option<Subject> {
        let reply = reply?;
        if reply.starts_with("jobs.") || reply.starts_with('$') {
            if !self.warned_of_reply.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    reply = ?reply.as_str(),
                    "somebody asks for an answer on a subject that is not an inbox, and gets none \
                     (further ones are not reported)"
                );
            }
            return None;
        }
        Some(reply)
    }

    pub(crate) fn status(&self) -> ConsumerStatus {
        let lane = self.report.status();
        let mut totals = lane.counts;
        let mut lanes = BTreeMap::from([(subjects::CORE_LANE.to_owned(), lane)]);
        if self.lane.get().is_some() {
            let durable = self.durable_report.status();
            totals += durable.counts;
            lanes.insert(subjects::DURABLE_LANE.to_owned(), durable);
        }
        let (in_flight, waiting) = self.in_flight_and_waiting();
        ConsumerStatus {
            consumer: self.instance.clone(),
            host: self.host.clone(),
            version: self.version.to_owned(),
            started_at: self.started.0,
            uptime_ms: u64::try_from(self.started.1.elapsed().as_millis()).unwrap_or(u64::MAX),
            state: self.state(),
            concurrency: u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            inbox: u32::try_from(self.inbox.limit()).unwrap_or(u32::MAX),
            waiting: waiting as u64,
            received: self.received(),
            dropped: self.nats.dropped(),
            unserved_kinds: self
                .lane
                .get()
                .map(Lane::kinds_without_consumer)
                .unwrap_or_default(),
            totals,
            lanes,
        }
    }
}

/// A slot holds plain data that no panic can leave half-written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
