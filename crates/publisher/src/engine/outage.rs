use tokio::time::Instant;
use tracing::{info, warn};

use super::Engine;
use crate::held::State;
use crate::lanes::Ready;

impl Engine {
    pub(crate) fn connection_changed(&mut self, up: bool) {
        // Of several changes only the last is seen: up after up means that it was lost in between.
        if self.up {
            self.lost();
        }
        if up {
            self.back();
        }
    }

    fn lost(&mut self) {
        self.up = false;
        self.lost_at = Some(Instant::now());
        let mut again = Vec::new();
        for (slot, held) in self.jobs.iter_mut() {
            if let State::OnTheWire { wire, .. } | State::Asking { wire, .. } = held.state {
                held.state = State::Ready;
                let serial = held.serial;
                again.push((wire, held.lane, Ready { slot, serial }));
            }
        }
        again.sort_unstable_by_key(|&(wire, ..)| wire);
        self.questions.clear();
        self.lanes.clear_the_wire();
        for (_, lane, job) in again {
            self.lanes.ready(lane, job);
        }
        warn!(
            jobs = self.jobs.len(),
            "jobs are kept until NATS is back, and no new ones are taken"
        );
    }

    fn back(&mut self) {
        self.up = true;
        if let Some(lost_at) = self.lost_at.take() {
            self.returned_at = Some(Instant::now());
            info!(
                jobs = self.jobs.len(),
                away_s = (lost_at.elapsed().as_secs_f64() * 1e3).round() / 1e3,
                "going on with the jobs that were kept"
            );
        }
    }
}
