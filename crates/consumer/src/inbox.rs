use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::Notify;
use worker::Lease;

use crate::kinds::KindIndex;
use crate::lock::lock;

/// A job that waits for a slot and was not decoded yet.
#[derive(Debug)]
pub(crate) enum WaitingJob {
    Core(CoreMessage),
    Durable(Arc<Lease>),
}

/// A message from `jobs.create` or `jobs.create.<kind>`.
#[derive(Debug, Default)]
pub(crate) struct CoreMessage {
    pub(crate) payload: Bytes,
    /// Reply subject; `None` for a plain publish.
    pub(crate) reply: Option<Subject>,
    pub(crate) headers: Option<Box<HeaderMap>>,
    /// Index of the served kind whose subject delivered this; `None` for `jobs.create`.
    pub(crate) subject_kind: Option<KindIndex>,
}

impl CoreMessage {
    /// Whether it is a plain publish, which its publisher does not submit again.
    fn is_plain(&self) -> bool {
        self.reply.is_none()
    }
}

impl WaitingJob {
    /// Whether it is a plain publish, which its publisher does not submit again.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Core(message) if message.is_plain())
    }

    /// Whether the priorities of its kind are heeded.
    fn is_ranked(&self) -> bool {
        matches!(self, Self::Durable(lease) if lease.is_ranked())
    }

    /// Whether it is to be started before another job: see [`Lease::goes_before`].
    fn goes_before(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Durable(lease), Self::Durable(other)) => lease.goes_before(other),
            _ => false,
        }
    }
}

/// The jobs that wait for a slot.
///
/// Jobs move in and out in batches, with one lock and at most one wake-up for each batch: to wake a
/// thread costs more than a short job. A slot that leaves jobs behind wakes the next slot, so that
/// all slots get to work. Core and durable jobs wait separately, and slots take jobs of both lanes
/// in turn, so that a flood in one lane does not delay the other.
#[derive(Debug)]
pub(crate) struct Inbox {
    jobs: Mutex<WaitingJobs>,
    /// How many core jobs wait, without durable jobs; read without the lock.
    waiting: AtomicUsize,
    /// The number of core jobs at which the inbox is full.
    limit: usize,
    /// The number of slots that take from it.
    slots: usize,
    /// Notified when jobs wait, and when the inbox is closed.
    arrived: Notify,
}

/// The waiting jobs of both lanes, each in the order in which slots take them.
#[derive(Debug, Default)]
struct WaitingJobs {
    core: VecDeque<WaitingJob>,
    durable: VecDeque<WaitingJob>,
    /// Whether the next slot takes durable jobs.
    durable_is_next: bool,
    /// Whether no more jobs are put in.
    closed: bool,
}

/// How many jobs a slot takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// An equal share for each slot, up to [`BATCH`]: for jobs that end at once.
    Fair,
    /// One job: the rest of a batch would wait for a long one.
    One,
}

/// The most jobs that a slot takes at a time.
const BATCH: usize = 32;

impl Inbox {
    pub(crate) fn new(limit: usize, slots: usize) -> Self {
        Self {
            jobs: Mutex::default(),
            waiting: AtomicUsize::new(0),
            limit,
            slots,
            arrived: Notify::new(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many core jobs wait. Durable jobs are not counted: they do not fill the inbox.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.limit
    }

    pub(crate) fn has_drained_to_half(&self) -> bool {
        self.waiting() <= self.limit / 2
    }

    /// Takes core messages in while there is room, and plain publishes even beyond it. Leaves the
    /// requests that found no room in `messages`.
    pub(crate) fn put(&self, messages: &mut Vec<CoreMessage>) {
        let mut jobs = lock(&self.jobs);
        let room = self.limit.saturating_sub(jobs.core.len());
        if messages.len() <= room {
            jobs.core.extend(messages.drain(..).map(WaitingJob::Core));
        } else {
            jobs.core
                .extend(messages.drain(..room).map(WaitingJob::Core));
            let plain = messages.extract_if(.., |message| message.is_plain());
            jobs.core.extend(plain.map(WaitingJob::Core));
        }
        self.changed(&jobs);
    }

    /// Takes durable jobs in, without a bound: the lane pulls about as many as there is room for. A job
    /// overtakes those of its kind that have a lower priority.
    pub(crate) fn put_durable(&self, leases: Vec<Arc<Lease>>) {
        let mut jobs = lock(&self.jobs);
        for lease in leases {
            let job = WaitingJob::Durable(lease);
            let overtaken = job
                .is_ranked()
                .then(|| jobs.durable.iter().position(|waits| job.goes_before(waits)));
            match overtaken.flatten() {
                Some(place) => jobs.durable.insert(place, job),
                None => jobs.durable.push_back(job),
            }
        }
        self.changed(&jobs);
    }

    /// Puts the batch of a slot back to the front of the waiting jobs, behind those that have overtaken
    /// them.
    pub(crate) fn put_back(&self, mut batch: VecDeque<WaitingJob>) {
        if batch.is_empty() {
            return;
        }
        let mut jobs = lock(&self.jobs);
        while let Some(job) = batch.pop_back() {
            let lane = jobs.lane_of(&job);
            let behind = job
                .is_ranked()
                .then(|| lane.iter().rposition(|waits| waits.goes_before(&job)));
            let place = behind.flatten().map_or(0, |place| place + 1);
            lane.insert(place, job);
        }
        self.changed(&jobs);
    }

    /// Waits for jobs and takes a slot's share of them; `None` when the inbox is closed and empty.
    pub(crate) async fn take(&self, share: Share) -> Option<VecDeque<WaitingJob>> {
        loop {
            // Created before the waiting jobs are read, so that no notification in between is
            // missed.
            let arrived = self.arrived.notified();
            {
                let mut jobs = lock(&self.jobs);
                let lane = jobs.next_lane();
                let waiting = lane.len();
                if waiting > 0 {
                    let count = match share {
                        Share::Fair => waiting.div_ceil(self.slots).min(BATCH),
                        Share::One => 1,
                    };
                    let batch = lane.drain(..count).collect();
                    self.changed(&jobs);
                    return Some(batch);
                }
                if jobs.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// Removes and returns the waiting jobs that match.
    pub(crate) fn take_matching(&self, matches: impl Fn(&WaitingJob) -> bool) -> Vec<WaitingJob> {
        let mut jobs = lock(&self.jobs);
        let mut taken = take_matching(&mut jobs.core, &matches);
        taken.extend(take_matching(&mut jobs.durable, &matches));
        self.changed(&jobs);
        taken
    }

    /// Lets the slots end when they have taken all jobs, because no more are put in.
    pub(crate) fn close(&self) {
        lock(&self.jobs).closed = true;
        self.arrived.notify_waiters();
    }

    /// To be called under the lock after the number of waiting jobs has changed.
    fn changed(&self, jobs: &WaitingJobs) {
        let waiting = jobs.core.len();
        self.waiting.store(waiting, Ordering::Release);
        if waiting > 0 || !jobs.durable.is_empty() {
            self.arrived.notify_one();
        }
    }
}

impl WaitingJobs {
    /// The waiting jobs of the lane that a job belongs to.
    fn lane_of(&mut self, job: &WaitingJob) -> &mut VecDeque<WaitingJob> {
        match job {
            WaitingJob::Core(_) => &mut self.core,
            WaitingJob::Durable(_) => &mut self.durable,
        }
    }

    /// The waiting jobs of the lane whose turn it is, or of the other lane if there are none.
    fn next_lane(&mut self) -> &mut VecDeque<WaitingJob> {
        self.durable_is_next = !self.durable_is_next;
        if self.durable.is_empty() || (!self.durable_is_next && !self.core.is_empty()) {
            &mut self.core
        } else {
            &mut self.durable
        }
    }
}

/// Removes and returns the jobs that match; the others keep their order.
pub(crate) fn take_matching(
    jobs: &mut VecDeque<WaitingJob>,
    matches: impl Fn(&WaitingJob) -> bool,
) -> Vec<WaitingJob> {
    let (taken, kept) = jobs.drain(..).partition::<VecDeque<_>, _>(matches);
    *jobs = kept;
    taken.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, reply: bool) -> CoreMessage {
        let reply = reply.then(|| Subject::from_static("_INBOX.x"));
        CoreMessage {
            payload: vec![number].into(),
            reply,
            ..CoreMessage::default()
        }
    }

    fn number(job: &WaitingJob) -> u8 {
        match job {
            WaitingJob::Core(message) => message.payload[0],
            WaitingJob::Durable(lease) => lease.payload[0],
        }
    }

    fn numbers<'a>(jobs: impl IntoIterator<Item = &'a WaitingJob>) -> Vec<u8> {
        jobs.into_iter().map(number).collect()
    }

    #[tokio::test]
    async fn requests_that_find_no_room_are_left_and_plain_publishes_are_kept() {
        let inbox = Inbox::new(2, 1);
        let mut messages: Vec<_> = (0..6)
            .map(|number| message(number, number % 2 == 0))
            .collect();
        inbox.put(&mut messages);
        let left: Vec<_> = messages.iter().map(|message| message.payload[0]).collect();
        assert_eq!(left, [2, 4]);
        assert!(inbox.is_full());
        let batch = inbox.take(Share::Fair).await.unwrap();
        assert_eq!(numbers(&batch), [0, 1, 3, 5]);
        assert_eq!(inbox.waiting(), 0);
    }

    #[tokio::test]
    async fn a_slot_takes_its_share_and_puts_back_to_the_front() {
        let inbox = Inbox::new(100, 4);
        inbox.put(&mut (0..10).map(|number| message(number, true)).collect());
        let mut batch = inbox.take(Share::Fair).await.unwrap();
        assert_eq!(numbers(&batch), [0, 1, 2]);
        batch.pop_front();
        inbox.put_back(batch);
        assert_eq!(inbox.waiting(), 9);
        assert_eq!(numbers(&inbox.take(Share::Fair).await.unwrap()), [1, 2, 3]);
        assert_eq!(numbers(&inbox.take(Share::One).await.unwrap()), [4]);
    }

    #[tokio::test]
    async fn a_closed_inbox_is_emptied_and_then_ends() {
        let inbox = Inbox::new(100, 1);
        inbox.put(&mut vec![message(1, false)]);
        inbox.close();
        assert!(inbox.take(Share::One).await.is_some());
        assert!(inbox.take(Share::One).await.is_none());
    }

    #[tokio::test]
    async fn slots_that_wait_are_woken_by_jobs_one_after_the_other_and_by_the_end() {
        let inbox = std::sync::Arc::new(Inbox::new(100, 3));
        let (say, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let slots: Vec<_> = (0..3)
            .map(|_| {
                let (inbox, say) = (inbox.clone(), say.clone());
                tokio::spawn(async move {
                    while let Some(batch) = inbox.take(Share::Fair).await {
                        for job in batch {
                            say.send(number(&job)).unwrap();
                        }
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        inbox.put(&mut (0..50).map(|number| message(number, false)).collect());
        for number in 0..50 {
            assert_eq!(heard.recv().await, Some(number));
        }
        inbox.close();
        for slot in slots {
            slot.await.unwrap();
        }
    }
}
