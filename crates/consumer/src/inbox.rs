use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::Notify;
use worker::Lease;

use crate::consumer::lock;

/// A job as it came, not read yet.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// From `jobs.create`, or the subject of its kind.
    Core(CoreDelivery),
    /// From the durable lane.
    Durable(Arc<Lease>),
}

/// A message from `jobs.create`, or the subject of its kind.
#[derive(Debug, Default)]
pub(crate) struct CoreDelivery {
    pub(crate) payload: Bytes,
    /// Reply subject; `None` for a plain publish.
    pub(crate) reply: Option<Subject>,
    pub(crate) headers: Option<Box<HeaderMap>>,
    /// Index of the served kind whose subject delivered this; `None` for `jobs.create`.
    pub(crate) on: Option<usize>,
}

impl Delivery {
    /// Whether it is a plain publish, which nobody would submit again.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Core(CoreDelivery { reply: None, .. }))
    }
}

/// The jobs that wait for a slot.
///
/// Jobs move in and out in batches, for one lock and at most one wake-up each: a wake-up of a
/// thread costs more than a short job. A slot that leaves some behind wakes the next, so that
/// all of them get to work. Jobs of the durable lane wait in a line of their own, so that a flood
/// in one lane does not hold up the other: slots take from both in turn.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    /// The length of the queue, to be read without the lock.
    waiting: AtomicUsize,
    limit: usize,
    slots: usize,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    durable: VecDeque<Delivery>,
    /// Whether the durable lane is next.
    durable_is_next: bool,
    closed: bool,
}

/// How many jobs a slot takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// As many as there are for each slot, up to a bound: for jobs that end at once.
    Fair,
    /// One: what was taken with a job waits for it, also if it keeps its thread busy for long.
    One,
}

/// The most jobs that a slot takes at a time.
const BATCH: usize = 32;

impl Inbox {
    pub(crate) fn new(limit: usize, slots: usize) -> Self {
        Self {
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            limit,
            slots,
            arrived: Notify::new(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.limit
    }

    pub(crate) fn has_drained_to_half(&self) -> bool {
        self.waiting() <= self.limit / 2
    }

    /// Takes deliveries in as far as there is room, and beyond it those that nobody would submit
    /// again; leaves the others where they are.
    pub(crate) fn put(&self, deliveries: &mut Vec<Delivery>) {
        let mut queue = lock(&self.queue);
        let room = self.limit.saturating_sub(queue.deliveries.len());
        if deliveries.len() <= room {
            queue.deliveries.extend(deliveries.drain(..));
        } else {
            queue.deliveries.extend(deliveries.drain(..room));
            let kept = deliveries.extract_if(.., |delivery| delivery.is_plain());
            queue.deliveries.extend(kept);
        }
        self.changed(&queue);
    }

    /// Takes jobs of the durable lane in; whoever pulls them keeps to the room there is.
    pub(crate) fn put_durable(&self, jobs: Vec<Arc<Lease>>) {
        let mut queue = lock(&self.queue);
        queue
            .durable
            .extend(jobs.into_iter().map(Delivery::Durable));
        self.changed(&queue);
    }

    /// Puts a batch that a slot cannot get to back in front.
    pub(crate) fn give_back(&self, mut batch: VecDeque<Delivery>) {
        if batch.is_empty() {
            return;
        }
        let mut queue = lock(&self.queue);
        while let Some(delivery) = batch.pop_back() {
            queue.line_of(&delivery).push_front(delivery);
        }
        self.changed(&queue);
    }

    /// Waits for jobs and takes this slot's share of them, or just one; `None` when the inbox is
    /// closed and empty.
    pub(crate) async fn take(&self, share: Share) -> Option<VecDeque<Delivery>> {
        loop {
            // Registered before the look, so that what comes in between is not missed.
            let arrived = self.arrived.notified();
            {
                let mut queue = lock(&self.queue);
                let line = queue.next_line();
                let waiting = line.len();
                if waiting > 0 {
                    let count = match share {
                        Share::Fair => waiting.div_ceil(self.slots).min(BATCH),
                        Share::One => 1,
                    };
                    let batch = line.drain(..count).collect();
                    self.changed(&queue);
                    return Some(batch);
                }
                if queue.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// Takes out all that waits for which `wanted` holds.
    pub(crate) fn take_out(&self, wanted: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut queue = lock(&self.queue);
        let mut out = take_out(&mut queue.deliveries, &wanted);
        out.extend(take_out(&mut queue.durable, &wanted));
        self.changed(&queue);
        out
    }

    /// Nothing more will come.
    pub(crate) fn close(&self) {
        lock(&self.queue).closed = true;
        self.arrived.notify_waiters();
    }

    /// Called under the lock when the number of waiting jobs has changed.
    fn changed(&self, queue: &Queue) {
        let waiting = queue.deliveries.len();
        self.waiting.store(waiting, Ordering::Release);
        if waiting > 0 || !queue.durable.is_empty() {
            self.arrived.notify_one();
        }
    }
}

impl Queue {
    fn line_of(&mut self, delivery: &Delivery) -> &mut VecDeque<Delivery> {
        match delivery {
            Delivery::Core(_) => &mut self.deliveries,
            Delivery::Durable(_) => &mut self.durable,
        }
    }

    /// The line that is next, or the other one if nobody waits in it.
    fn next_line(&mut self) -> &mut VecDeque<Delivery> {
        self.durable_is_next = !self.durable_is_next;
        if self.durable.is_empty() || (!self.durable_is_next && !self.deliveries.is_empty()) {
            &mut self.deliveries
        } else {
            &mut self.durable
        }
    }
}

/// Takes those out for which `wanted` holds; the others keep their order.
pub(crate) fn take_out(
    deliveries: &mut VecDeque<Delivery>,
    wanted: impl Fn(&Delivery) -> bool,
) -> Vec<Delivery> {
    let (out, stay) = deliveries.drain(..).partition::<VecDeque<_>, _>(wanted);
    *deliveries = stay;
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(number: u8, reply: bool) -> Delivery {
        let reply = reply.then(|| Subject::from_static("_INBOX.x"));
        Delivery::Core(CoreDelivery {
            payload: vec![number].into(),
            reply,
            ..CoreDelivery::default()
        })
    }

    fn number(delivery: &Delivery) -> u8 {
        match delivery {
            Delivery::Core(delivery) => delivery.payload[0],
            Delivery::Durable(lease) => lease.payload[0],
        }
    }

    fn numbers<'a>(deliveries: impl IntoIterator<Item = &'a Delivery>) -> Vec<u8> {
        deliveries.into_iter().map(number).collect()
    }

    #[tokio::test]
    async fn what_finds_no_room_is_left_unless_nobody_would_submit_it_again() {
        let inbox = Inbox::new(2, 1);
        let mut deliveries: Vec<_> = (0..6)
            .map(|number| delivery(number, number % 2 == 0))
            .collect();
        inbox.put(&mut deliveries);
        assert_eq!(numbers(&deliveries), [2, 4]);
        assert!(inbox.is_full());
        let batch = inbox.take(Share::Fair).await.unwrap();
        assert_eq!(numbers(&batch), [0, 1, 3, 5]);
        assert_eq!(inbox.waiting(), 0);
    }

    #[tokio::test]
    async fn a_slot_takes_its_share_and_gives_back_to_the_front() {
        let inbox = Inbox::new(100, 4);
        inbox.put(&mut (0..10).map(|number| delivery(number, true)).collect());
        let mut batch = inbox.take(Share::Fair).await.unwrap();
        assert_eq!(numbers(&batch), [0, 1, 2]);
        batch.pop_front();
        inbox.give_back(batch);
        assert_eq!(inbox.waiting(), 9);
        assert_eq!(numbers(&inbox.take(Share::Fair).await.unwrap()), [1, 2, 3]);
        assert_eq!(numbers(&inbox.take(Share::One).await.unwrap()), [4]);
    }

    #[tokio::test]
    async fn a_closed_inbox_gives_what_it_has_and_then_ends() {
        let inbox = Inbox::new(100, 1);
        inbox.put(&mut vec![delivery(1, false)]);
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
                        for delivery in batch {
                            say.send(number(&delivery)).unwrap();
                        }
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        inbox.put(&mut (0..50).map(|number| delivery(number, false)).collect());
        for number in 0..50 {
            assert_eq!(heard.recv().await, Some(number));
        }
        inbox.close();
        for slot in slots {
            slot.await.unwrap();
        }
    }
}
