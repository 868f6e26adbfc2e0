//! Whether the consumer takes jobs, and the two signals that change it.

use std::sync::atomic::{AtomicU8, Ordering};

use common::ConsumerState;
use tokio::sync::Notify;

pub(crate) struct State {
    current: AtomicU8,
    /// Notified when the inbox has become full.
    pub(crate) inbox_full: Notify,
    /// Notified when a full inbox has drained to half.
    pub(crate) inbox_drained: Notify,
}

impl State {
    /// Running.
    pub(crate) fn new() -> Self {
        Self {
            current: AtomicU8::new(ConsumerState::Running as u8),
            inbox_full: Notify::new(),
            inbox_drained: Notify::new(),
        }
    }

    pub(crate) fn get(&self) -> ConsumerState {
        match self.current.load(Ordering::Acquire) {
            state if state == ConsumerState::Draining as u8 => ConsumerState::Draining,
            state if state == ConsumerState::Saturated as u8 => ConsumerState::Saturated,
            _ => ConsumerState::Running,
        }
    }

    /// Changes the state. Draining is final: any change after it is ignored.
    pub(crate) fn set(&self, state: ConsumerState) {
        // The update is refused only while draining.
        let _ = self
            .current
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |current| {
                (current != ConsumerState::Draining as u8).then_some(state as u8)
            });
    }
}
