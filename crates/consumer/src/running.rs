//! What a slot runs, and what it has taken to run next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_nats::Subject;
use bootstrap::trace::Span;
use common::JobId;
use worker::Lease;

use crate::inbox::WaitingJob;
use crate::kinds::KindIndex;

/// The part of a slot that other tasks can see and take from.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// The job that runs. The settlement takes the job out of here first, so that a job that
    /// outlives the grace period is settled only once.
    pub(crate) running: Option<RunningJob>,
    /// Jobs taken from the inbox together with the running one.
    pub(crate) batch: VecDeque<WaitingJob>,
}

/// A job whose handler was called.
#[derive(Debug)]
pub(crate) struct RunningJob {
    pub(crate) id: JobId,
    pub(crate) kind: KindIndex,
    /// Number of the attempt, from 1.
    pub(crate) attempt: u32,
    pub(crate) started_at: Instant,
    pub(crate) origin: Origin,
    pub(crate) span: Span,
}

/// Where a job comes from, which decides how it is settled.
#[derive(Debug)]
pub(crate) enum Origin {
    /// From `jobs.create` or `jobs.create.<kind>`.
    Core {
        /// Reply subject; `None` for a plain publish.
        reply: Option<Subject>,
    },
    /// From the durable queue.
    Durable(Arc<Lease>),
}

impl Origin {
    /// `None` for core jobs.
    pub(crate) fn lease(&self) -> Option<&Arc<Lease>> {
        match self {
            Self::Core { .. } => None,
            Self::Durable(lease) => Some(lease),
        }
    }

    /// Whether the outcome is sent or stored; only plain publishes have no use for it.
    pub(crate) fn wants_outcome(&self) -> bool {
        !matches!(self, Self::Core { reply: None })
    }
}
