use std::collections::{HashMap, VecDeque};

use async_nats::Subject;
use common::{JobKind, subjects};

use crate::window::Window;

/// The jobs of one subject: they share a fleet of consumers, so they share a window.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) subject: Subject,
    pub(crate) window: Window,
    /// Jobs that wait for an answer; no more than the window lets, but for what was sent before it
    /// halved.
    pub(crate) on_the_wire: usize,
    /// Jobs that a consumer took and answered.
    pub(crate) taken: u64,
    /// Jobs that may be sent as soon as the window lets them, in this order.
    ready: VecDeque<Ready>,
    /// Whether it stands in [`Lanes::runnable`].
    runnable: bool,
    /// Jobs that belong to it, wherever they are.
    held: usize,
}

/// A job that may be sent, by its slot; the serial number tells whether it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) slot: u16,
    pub(crate) serial: u64,
}

/// All lanes: one, or one for each kind.
#[derive(Debug)]
pub(crate) struct Lanes {
    all: Vec<Lane>,
    /// The lane of each kind; none of them if all kinds go to one subject.
    of_kind: Option<HashMap<JobKind, usize>>,
    free: Vec<usize>,
    /// Lanes that may have a job to send, in turn.
    runnable: VecDeque<usize>,
    max: usize,
}

impl Lanes {
    /// So many lanes are kept with what was learned of their consumers, though they are empty.
    const KEPT: usize = 1024;

    pub(crate) fn new(by_kind: bool, max: usize) -> Self {
        let mut lanes = Self {
            all: Vec::new(),
            of_kind: by_kind.then(HashMap::new),
            free: Vec::new(),
            runnable: VecDeque::new(),
            max,
        };
        if !by_kind {
            lanes.open(Subject::from_static(subjects::CREATE));
        }
        lanes
    }

    pub(crate) fn get(&mut self, lane: usize) -> &mut Lane {
        &mut self.all[lane]
    }

    /// The windows of all lanes in use together.
    pub(crate) fn window(&self) -> usize {
        let limit = |lane: &usize| self.all[*lane].window.limit();
        match &self.of_kind {
            None => limit(&0),
            Some(of_kind) => of_kind.values().map(limit).sum(),
        }
    }

    /// The lane for a job of a kind, to which it belongs from now on.
    pub(crate) fn enter(&mut self, kind: &JobKind) -> usize {
        let known = match &self.of_kind {
            None => Some(0),
            Some(of_kind) => of_kind.get(kind).copied(),
        };
        let lane = known.unwrap_or_else(|| {
            let lane = self.open(subjects::create_kind(kind).into());
            if let Some(of_kind) = &mut self.of_kind {
                of_kind.insert(kind.clone(), lane);
            }
            lane
        });
        self.all[lane].held += 1;
        lane
    }

    /// A job of this kind is done.
    pub(crate) fn leave(&mut self, lane: usize, kind: &JobKind) {
        self.all[lane].held -= 1;
        self.wake(lane);
        if self.all[lane].held == 0
            && let Some(of_kind) = &mut self.of_kind
            && of_kind.len() > Self::KEPT
        {
            of_kind.remove(kind);
            self.free.push(lane);
        }
    }

    /// A job may be sent as soon as the window lets it.
    pub(crate) fn ready(&mut self, lane: usize, job: Ready) {
        self.all[lane].ready.push_back(job);
        self.wake(lane);
    }

    /// There may be room in the window of a lane.
    pub(crate) fn wake(&mut self, lane: usize) {
        let state = &mut self.all[lane];
        if !state.runnable && !state.ready.is_empty() {
            state.runnable = true;
            self.runnable.push_back(lane);
        }
    }

    pub(crate) fn has_next(&self) -> bool {
        !self.runnable.is_empty()
    }

    /// The next job to send, from each lane in turn.
    pub(crate) fn next(&mut self) -> Option<(usize, Ready)> {
        while let Some(lane) = self.runnable.pop_front() {
            let state = &mut self.all[lane];
            state.runnable = false;
            if state.on_the_wire < state.window.limit()
                && let Some(job) = state.ready.pop_front()
            {
                self.wake(lane);
                return Some((lane, job));
            }
        }
        None
    }

    /// Nothing waits for an answer any more.
    pub(crate) fn clear_the_wire(&mut self) {
        for lane in 0..self.all.len() {
            self.all[lane].on_the_wire = 0;
            self.wake(lane);
        }
    }

    fn open(&mut self, subject: Subject) -> usize {
        let lane = Lane {
            subject,
            window: Window::new(self.max),
            on_the_wire: 0,
            taken: 0,
            ready: VecDeque::new(),
            runnable: false,
            held: 0,
        };
        if let Some(free) = self.free.pop() {
            // It may stand among the runnable ones, where an empty lane is passed over.
            self.all[free] = lane;
            free
        } else {
            self.all.push(lane);
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

    fn enter(lanes: &mut Lanes, name: &str, serial: u64) -> usize {
        let lane = lanes.enter(&kind(name));
        lanes.ready(lane, Ready { slot: 0, serial });
        lane
    }

    fn send(lanes: &mut Lanes) -> Option<u64> {
        let (lane, job) = lanes.next()?;
        lanes.get(lane).on_the_wire += 1;
        Some(job.serial)
    }

    #[test]
    fn jobs_of_all_kinds_share_one_subject_unless_told_otherwise() {
        let mut lanes = Lanes::new(false, 8);
        assert_eq!(enter(&mut lanes, "a", 1), enter(&mut lanes, "b", 2));
        assert_eq!(lanes.get(0).subject.as_str(), "jobs.create");
        let mut lanes = Lanes::new(true, 8);
        let (a, b) = (enter(&mut lanes, "a.x", 1), enter(&mut lanes, "b", 2));
        assert_eq!(lanes.get(a).subject.as_str(), "jobs.create.a.x");
        assert_eq!(lanes.get(b).subject.as_str(), "jobs.create.b");
        assert_eq!(enter(&mut lanes, "a.x", 3), a);
    }

    #[test]
    fn a_kind_that_nobody_takes_does_not_hold_back_the_others() {
        let mut lanes = Lanes::new(true, 2);
        for serial in [1, 2, 3] {
            enter(&mut lanes, "stuck", serial);
        }
        let free = enter(&mut lanes, "free", 4);
        assert_eq!(
            std::iter::from_fn(|| send(&mut lanes)).collect::<Vec<_>>(),
            [1, 4, 2]
        );
        lanes.get(free).on_the_wire -= 1;
        lanes.leave(free, &kind("free"));
        enter(&mut lanes, "free", 5);
        assert_eq!(send(&mut lanes), Some(5));
        assert_eq!(send(&mut lanes), None);
    }

    #[test]
    fn room_in_the_window_lets_the_next_job_go() {
        let mut lanes = Lanes::new(false, 1);
        let lane = enter(&mut lanes, "a", 1);
        enter(&mut lanes, "a", 2);
        assert_eq!((send(&mut lanes), send(&mut lanes)), (Some(1), None));
        lanes.get(lane).on_the_wire -= 1;
        lanes.leave(lane, &kind("a"));
        assert_eq!(send(&mut lanes), Some(2));
        lanes.clear_the_wire();
        enter(&mut lanes, "a", 3);
        assert_eq!(send(&mut lanes), Some(3));
    }

    #[test]
    fn endlessly_many_kinds_do_not_take_endless_memory() {
        let mut lanes = Lanes::new(true, 8);
        for number in 0..10_000 {
            let name = format!("k{number}");
            let lane = enter(&mut lanes, &name, number);
            assert_eq!(send(&mut lanes), Some(number));
            lanes.get(lane).on_the_wire -= 1;
            lanes.leave(lane, &kind(&name));
        }
        assert!(lanes.all.len() <= Lanes::KEPT + 2, "{}", lanes.all.len());
        assert!(lanes.runnable.len() <= lanes.all.len());
    }
}
