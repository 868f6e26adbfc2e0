use common::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use super::{Engine, NotDone};
use crate::answer::{Again, Reason};
use crate::held::State;
use crate::lanes::Ready;

impl Engine {
    /// Finds the jobs that have waited long enough, and says how many wait for room.
    pub(super) fn look_through(&mut self, now: Instant) {
        let mut due = Vec::new();
        let mut wait_for_room = Vec::new();
        for (slot, held) in self.jobs.iter_mut() {
            match held.state.until() {
                Some(until) if until <= now => due.push(slot),
                Some(until) => self.alarm.set(until),
                None => {}
            }
            if let (State::Ready | State::Waiting { .. }, Some(since)) =
                (held.state, held.no_room_since)
            {
                wait_for_room.push(since);
            }
        }
        let (jobs, next) = self.saturation.mention(now, &wait_for_room);
        if jobs > 0 {
            warn!(jobs, "jobs wait: all consumers that serve them are full");
        }
        if let Some(next) = next {
            self.alarm.set(next);
        }
        for slot in due {
            self.look_at(slot);
        }
    }

    /// Does what follows when the state of a job has lasted long enough.
    fn look_at(&mut self, slot: u16) {
        let Some(held) = self.jobs.get_mut(slot) else {
            return;
        };
        match held.state {
            State::OnTheWire { .. } => self.not_done(slot, Again::because(Reason::TimedOut)),
            State::Asking { .. } => {
                let again = Again::because(Reason::NoConsumer);
                self.try_again(slot, NotDone::Attempt(again));
            }
            State::Ready | State::Waiting { .. } => {
                let deadline = held.submission.terms.deadline;
                if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) {
                    self.expire(slot);
                    return;
                }
                held.state = State::Ready;
                let (lane, serial) = (held.lane, held.serial);
                self.lanes.ready(lane, Ready { slot, serial });
            }
        }
    }
}
