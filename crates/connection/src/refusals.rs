//! What the server has refused, because the user has no permission for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// How many refusals are remembered.
const REMEMBERED: usize = 64;

/// What stands before the subject in the server's words (2.15.1).
const VIOLATIONS: [(Operation, &str); 2] = [
    (Operation::Publish, "Permissions Violation for Publish to "),
    (
        Operation::Subscribe,
        "Permissions Violation for Subscription to ",
    ),
];

/// What needs a permission of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To publish to a subject, also as a request.
    Publish,
    /// To subscribe to a subject.
    Subscribe,
}

/// What the server has refused on a connection lately, because the user has no permission for it.
/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    refused: Mutex<Refused>,
    /// Changes with each refusal.
    changed: watch::Sender<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            refused: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

#[derive(Debug, Default)]
struct Refused {
    last: VecDeque<(Operation, String)>,
    /// How many came before those in `last`.
    forgotten: usize,
}

impl Refusals {
    /// Whether the server has refused a publish to this subject lately.
    #[must_use]
    pub fn contains(&self, subject: &str) -> bool {
        self.has(Operation::Publish, subject, 0)
    }

    /// Waits until the server refuses the operation on this subject. A refusal counts from the call of
    /// this function on, so call it before the operation, and await it beside the answer.
    pub fn next(
        &self,
        operation: Operation,
        subject: &str,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut changed = self.0.changed.subscribe();
        let from = self.count();
        let (refusals, subject) = (self.clone(), subject.to_owned());
        async move {
            while !refusals.has(operation, &subject, from) {
                // The sender lives as long as the refusals.
                let _ = changed.changed().await;
            }
        }
    }

    /// Remembers what an error of the server names, if it is about a permission.
    pub(crate) fn note(&self, error: &str) {
        let found = VIOLATIONS.iter().find_map(|(operation, words)| {
            let (_, quoted) = error.split_once(words)?;
            let subject = quoted.trim_start_matches('"').split('"').next()?;
            Some((*operation, subject.to_owned()))
        });
        let Some(refusal) = found else {
            return;
        };
        {
            let mut refused = self.lock();
            if refused.last.len() == REMEMBERED {
                refused.last.pop_front();
                refused.forgotten += 1;
            }
            refused.last.push_back(refusal);
        }
        self.0.changed.send_replace(());
    }

    /// How many refusals there were.
    fn count(&self) -> usize {
        let refused = self.lock();
        refused.forgotten + refused.last.len()
    }

    /// Whether the refusals from this number on have such a one.
    fn has(&self, operation: Operation, subject: &str, from: usize) -> bool {
        let refused = self.lock();
        let skip = from.saturating_sub(refused.forgotten);
        let mut later = refused.last.iter().skip(skip);
        later.any(|(refused, on)| *refused == operation && on == subject)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Refused> {
        // Nothing panics while it is locked.
        self.0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_refusal_is_remembered_with_its_operation_and_its_subject() {
        let refusals = Refusals::default();
        refusals.note(r#"Permissions Violation for Publish to "jobs.create""#);
        refusals.note(r#"Permissions Violation for Subscription to "a.b" using queue "workers""#);
        refusals.note("Stale Connection");
        assert!(refusals.contains("jobs.create") && !refusals.contains("a.b"));
        assert!(refusals.has(Operation::Subscribe, "a.b", 0));
        assert_eq!(refusals.count(), 2);
    }

    #[test]
    fn only_a_refusal_that_comes_later_ends_a_wait() {
        let refusals = Refusals::default();
        let violation = r#"Permissions Violation for Publish to "a""#;
        for _ in 0..2 * REMEMBERED {
            refusals.note(violation);
        }
        let mut next = std::pin::pin!(refusals.next(Operation::Publish, "a"));
        let mut other = std::pin::pin!(refusals.next(Operation::Subscribe, "a"));
        assert!(next.as_mut().now_or_never().is_none());
        refusals.note(violation);
        assert!(next.now_or_never().is_some());
        assert!(other.as_mut().now_or_never().is_none());
    }
}
