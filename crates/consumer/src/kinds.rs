//! The kinds of jobs that this consumer serves.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

use common::JobKind;

use crate::any_handler::AnyHandler;
use crate::config::Config;
use crate::counters::{KindCounters, LaneCounters};
use crate::keep::Keep;

/// The served kinds, sorted by name.
pub(crate) struct Kinds(Box<[ServedKind]>);

/// Index of a served kind in [`Kinds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KindIndex(usize);

/// A kind that this consumer serves.
pub(crate) struct ServedKind {
    pub(crate) kind: JobKind,
    pub(crate) handler: Box<dyn AnyHandler>,
    /// Time-out of one attempt at a job that sets none.
    pub(crate) timeout: Duration,
    /// Which of its durable jobs leave a record.
    pub(crate) keep: Keep,
    /// Counters of its core jobs.
    pub(crate) core: Arc<KindCounters>,
    /// Counters of its durable jobs.
    pub(crate) durable: Arc<KindCounters>,
}

impl Kinds {
    /// The kinds of these handlers. The configuration is for what a handler does not set. Kinds
    /// without counters are left out.
    pub(crate) fn new(
        handlers: BTreeMap<JobKind, Box<dyn AnyHandler>>,
        config: &Config,
        core: &LaneCounters,
        durable: &LaneCounters,
    ) -> Self {
        let served = handlers.into_iter().filter_map(|(kind, handler)| {
            Some(ServedKind {
                core: core.kind(&kind)?,
                durable: durable.kind(&kind)?,
                timeout: handler.timeout().unwrap_or(config.timeout),
                keep: handler.keep().unwrap_or(config.keep),
                kind,
                handler,
            })
        });
        Self(served.collect())
    }

    /// The index of a kind; `None` if it is not served here.
    pub(crate) fn find(&self, kind: &JobKind) -> Option<KindIndex> {
        self.0
            .binary_search_by(|served| served.kind.cmp(kind))
            .ok()
            .map(KindIndex)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (KindIndex, &ServedKind)> {
        let served = self.0.iter().enumerate();
        served.map(|(index, served)| (KindIndex(index), served))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &JobKind> {
        self.0.iter().map(|served| &served.kind)
    }
}

impl Index<KindIndex> for Kinds {
    type Output = ServedKind;

    fn index(&self, index: KindIndex) -> &ServedKind {
        &self.0[index.0]
    }
}
