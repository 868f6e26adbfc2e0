use std::collections::{HashMap, VecDeque};

use async_nats::Subject;
use common::{JobKind, subjects};

use super::pending_job::JobRef;
use super::window::Window;

/// The jobs of one subject. The same consumers serve them, so they share a window.
#[derive(Debug)]
pub(super) struct SubjectQueue {
    pub(super) subject: Subject,
    pub(super) window: Window,
    /// Jobs that were sent and have no reply yet. After the window has halved, these may be more than
    /// its limit.
    pub(super) unanswered: usize,
    /// Jobs that a consumer has accepted and ended, since the queue exists.
    pub(super) accepted: u64,
    /// Jobs that are sent in this order as the window has room.
    ready: VecDeque<JobRef>,
    /// Whether this queue is in [`SubjectQueues::runnable`].
    runnable: bool,
    /// Pending jobs of this subject, in any state.
    pending: usize,
}

/// The queues of all subjects: one for `jobs.create`, or one for each kind.
#[derive(Debug)]
pub(super) struct SubjectQueues {
    all: Vec<SubjectQueue>,
    /// Index of each kind's queue; `None` if all kinds go to one subject.
    of_kind: Option<HashMap<JobKind, usize>>,
    /// Indices of queues that can be used for another kind.
    free: Vec<usize>,
    /// Indices of queues that may have a job to send, in turn.
    runnable: VecDeque<usize>,
    /// The largest window of a queue.
    max: usize,
}

impl SubjectQueues {
    /// Up to this many kinds keep their window while they have no job.
    const KEPT: usize = 1024;

    pub(super) fn new(by_kind: bool, max: usize) -> Self {
        let mut queues = Self {
            all: Vec::new(),
            of_kind: by_kind.then(HashMap::new),
            free: Vec::new(),
            runnable: VecDeque::new(),
            max,
        };
        if !by_kind {
            queues.open(Subject::from_static(subjects::CREATE));
        }
        queues
    }

    pub(super) fn get(&mut self, queue: usize) -> &mut SubjectQueue {
        &mut self.all[queue]
    }

    /// The sum of the windows of all queues in use.
    pub(super) fn window(&self) -> usize {
        let limit = |queue: &usize| self.all[*queue].window.limit();
        match &self.of_kind {
            None => limit(&0),
            Some(of_kind) => of_kind.values().map(limit).sum(),
        }
    }

    /// Counts a new job of this kind as pending, and returns the index of its queue.
    pub(super) fn enter(&mut self, kind: &JobKind) -> usize {
        let known = match &self.of_kind {
            None => Some(0),
            Some(of_kind) => of_kind.get(kind).copied(),
        };
        let queue = known.unwrap_or_else(|| {
            let queue = self.open(subjects::create_kind(kind).into());
            if let Some(of_kind) = &mut self.of_kind {
                of_kind.insert(kind.clone(), queue);
            }
            queue
        });
        self.all[queue].pending += 1;
        queue
    }

    /// Counts a job of this kind as ended.
    pub(super) fn leave(&mut self, queue: usize, kind: &JobKind) {
        self.all[queue].pending -= 1;
        self.wake(queue);
        if self.all[queue].pending == 0
            && let Some(of_kind) = &mut self.of_kind
            && of_kind.len() > Self::KEPT
        {
            of_kind.remove(kind);
            self.free.push(queue);
        }
    }

    /// Adds a job that is sent as soon as the window has room.
    pub(super) fn push_ready(&mut self, queue: usize, job: JobRef) {
        self.all[queue].ready.push_back(job);
        self.wake(queue);
    }

    /// Makes a queue runnable if it has ready jobs; call this when its window may have room again.
    pub(super) fn wake(&mut self, queue: usize) {
        let state = &mut self.all[queue];
        if !state.runnable && !state.ready.is_empty() {
            state.runnable = true;
            self.runnable.push_back(queue);
        }
    }

    pub(super) fn may_have_next(&self) -> bool {
        !self.runnable.is_empty()
    }

    /// The next job to send and the index of its queue, from each queue in turn.
    pub(super) fn next(&mut self) -> Option<(usize, JobRef)> {
        while let Some(queue) = self.runnable.pop_front() {
            let state = &mut self.all[queue];
            state.runnable = false;
            if state.unanswered < state.window.limit()
                && let Some(job) = state.ready.pop_front()
            {
                self.wake(queue);
                return Some((queue, job));
            }
        }
        None
    }

    /// Forgets all unanswered jobs, after the connection was lost.
    pub(super) fn clear_unanswered(&mut self) {
        for queue in 0..self.all.len() {
            self.all[queue].unanswered = 0;
            self.wake(queue);
        }
    }

    fn open(&mut self, subject: Subject) -> usize {
        let queue = SubjectQueue {
            subject,
            window: Window::new(self.max),
            unanswered: 0,
            accepted: 0,
            ready: VecDeque::new(),
            runnable: false,
            pending: 0,
        };
        if let Some(free) = self.free.pop() {
            // It may still be in `runnable`; `next` skips an empty queue there.
            self.all[free] = queue;
            free
        } else {
            self.all.push(queue);
            self.all.len() - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> JobKind {
        text.parse().unwrap()
    }

    fn enter(queues: &mut SubjectQueues, name: &str, serial: u64) -> usize {
        let queue = queues.enter(&kind(name));
        queues.push_ready(queue, JobRef { slot: 0, serial });
        queue
    }

    fn send(queues: &mut SubjectQueues) -> Option<u64> {
        let (queue, job) = queues.next()?;
        queues.get(queue).unanswered += 1;
        Some(job.serial)
    }

    #[test]
    fn jobs_of_all_kinds_share_one_subject_unless_told_otherwise() {
        let mut queues = SubjectQueues::new(false, 8);
        assert_eq!(enter(&mut queues, "a", 1), enter(&mut queues, "b", 2));
        assert_eq!(queues.get(0).subject.as_str(), "jobs.create");
        let mut queues = SubjectQueues::new(true, 8);
        let (a, b) = (enter(&mut queues, "a.x", 1), enter(&mut queues, "b", 2));
        assert_eq!(queues.get(a).subject.as_str(), "jobs.create.a.x");
        assert_eq!(queues.get(b).subject.as_str(), "jobs.create.b");
        assert_eq!(enter(&mut queues, "a.x", 3), a);
    }

    #[test]
    fn a_kind_without_consumers_does_not_hold_back_the_others() {
        let mut queues = SubjectQueues::new(true, 2);
        for serial in [1, 2, 3] {
            enter(&mut queues, "stuck", serial);
        }
        let free = enter(&mut queues, "free", 4);
        assert_eq!(
            std::iter::from_fn(|| send(&mut queues)).collect::<Vec<_>>(),
            [1, 4, 2]
        );
        queues.get(free).unanswered -= 1;
        queues.leave(free, &kind("free"));
        enter(&mut queues, "free", 5);
        assert_eq!(send(&mut queues), Some(5));
        assert_eq!(send(&mut queues), None);
    }

    #[test]
    fn room_in_the_window_lets_the_next_job_go() {
        let mut queues = SubjectQueues::new(false, 1);
        let queue = enter(&mut queues, "a", 1);
        enter(&mut queues, "a", 2);
        assert_eq!((send(&mut queues), send(&mut queues)), (Some(1), None));
        queues.get(queue).unanswered -= 1;
        queues.leave(queue, &kind("a"));
        assert_eq!(send(&mut queues), Some(2));
        queues.clear_unanswered();
        enter(&mut queues, "a", 3);
        assert_eq!(send(&mut queues), Some(3));
    }

    #[test]
    fn endlessly_many_kinds_do_not_take_endless_memory() {
        let mut queues = SubjectQueues::new(true, 8);
        for number in 0..10_000 {
            let name = format!("k{number}");
            let queue = enter(&mut queues, &name, number);
            assert_eq!(send(&mut queues), Some(number));
            queues.get(queue).unanswered -= 1;
            queues.leave(queue, &kind(&name));
        }
        assert!(
            queues.all.len() <= SubjectQueues::KEPT + 2,
            "{}",
            queues.all.len()
        );
        assert!(queues.runnable.len() <= queues.all.len());
    }
}
