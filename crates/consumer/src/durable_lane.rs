//! The durable lane in this consumer: its jobs run in the same slots as all others.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bootstrap::Context;
use bootstrap::trace::Span;
use common::{DeadReason, JobKind, OutcomeError, codes};
use tracing::{info, warn};
use worker::{Lane, LaneEnd, LaneOptions, Lease, Settlement, Sink, Topology};

use crate::config::{Config, Durable};
use crate::consumer::{Consumer, lock};
use crate::inbox::{Delivery, take_out};
use crate::job_log::About;
use crate::report::Ending;
use crate::runner::Ended;
use crate::settle::loggable;
use crate::trace;

/// How long no pull may come to a good end while jobs wait.
const STARVED: Duration = Duration::from_mins(1);

/// Starts the lane, if it is wanted and the server has JetStream.
///
/// # Errors
/// When it is required and there is no JetStream, or its streams are not as they should be.
pub(crate) async fn start(
    context: &Context,
    config: &Config,
    consumer: &Arc<Consumer>,
) -> anyhow::Result<Option<(Lane, LaneEnd)>> {
    if config.durable == Durable::Off {
        return Ok(None);
    }
    let kinds = consumer.served().iter().map(|served| served.kind.clone());
    let options = LaneOptions {
        instance: consumer.instance.clone(),
        kinds: kinds.collect(),
        keep: config.keep_outcomes,
        topology: Topology::default(),
        accept_unsafe: config.accept_unsafe_server,
        starved_after: STARVED,
    };
    let sink = Arc::new(Slots(Arc::downgrade(consumer)));
    let lane = Lane::start(context, options, sink).await?;
    if lane.is_none() {
        anyhow::ensure!(
            config.durable != Durable::Required,
            "the server has no JetStream for this user, and --durable required asks for it"
        );
        info!("the server has no JetStream: serving jobs.create alone");
    }
    if let Some((lane, _)) = &lane {
        consumer.lane.get_or_init(|| lane.clone());
        lane.begin();
        info!("taking durable jobs");
    }
    Ok(lane)
}

/// The consumer, as the lane sees it: the lane does not keep it alive.
struct Slots(Weak<Consumer>);

impl Sink for Slots {
    fn capacity(&self) -> usize {
        self.0.upgrade().map_or(0, |consumer| consumer.slots.len())
    }

    /// As many as there are free slots; where the other lane keeps them busy, half of all, so that
    /// both get on.
    fn room(&self) -> usize {
        let Some(consumer) = self.0.upgrade() else {
            return 0;
        };
        let slots = consumer.slots.len();
        let here = consumer.durable_jobs.load(Ordering::Acquire);
        let most = if consumer.inbox.waiting() > 0 {
            slots.div_ceil(2)
        } else {
            slots
        };
        most.saturating_sub(here)
    }

    fn take(&self, jobs: Vec<Arc<Lease>>) {
        let Some(consumer) = self.0.upgrade() else {
            return;
        };
        consumer
            .durable_jobs
            .fetch_add(jobs.len(), Ordering::AcqRel);
        consumer.count_received(jobs.len() as u64);
        consumer.inbox.put_durable(jobs);
    }

    fn give_up_waiting(&self, longer_than: Duration) -> Vec<Arc<Lease>> {
        let Some(consumer) = self.0.upgrade() else {
            return Vec::new();
        };
        let waited = |delivery: &Delivery| match delivery {
            Delivery::Core(_) => false,
            Delivery::Durable(lease) => lease.age() > longer_than,
        };
        let mut waiting = consumer.inbox.take_out(waited);
        for slot in &consumer.slots {
            waiting.extend(take_out(&mut lock(slot).batch, waited));
        }
        consumer
            .durable_jobs
            .fetch_sub(waiting.len(), Ordering::AcqRel);
        waiting
            .into_iter()
            .filter_map(|delivery| match delivery {
                Delivery::Core(_) => None,
                Delivery::Durable(lease) => Some(lease),
            })
            .collect()
    }

    fn refused(&self, kind: Option<&JobKind>, settlement: &Settlement) {
        let Some(consumer) = self.0.upgrade() else {
            return;
        };
        let place = kind.and_then(|kind| consumer.place_of(kind));
        let report = place.map_or(&consumer.durable_report.others, |place| {
            consumer.report_of(place, true)
        });
        let (ending, why) = match settlement {
            Settlement::Expired => (Ending::Expired, "its deadline has passed".to_owned()),
            Settlement::Dead { reason, error } => {
                let error = error.as_ref().map(loggable).unwrap_or_default();
                (Ending::Rejected, format!("{reason} {error}"))
            }
            _ => return,
        };
        report.ended(ending);
        if consumer.log.has_room(About::Failure) {
            // The text repeats parts of the message, whoever sent it: so it is logged escaped.
            warn!(job.kind = kind.map(tracing::field::display), why = ?why, "durable job not run");
        }
    }
}

/// A handler has ended.
pub(crate) fn ended(
    consumer: &Consumer,
    place: usize,
    (lease, span): (Arc<Lease>, Span),
    elapsed: Duration,
    ended: Ended,
) {
    let kind = &lease.kind;
    let report = consumer.report_of(place, true);
    report.ran(elapsed);
    let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
    let (ending, settlement) = match ended {
        Ended::Returned(result) => {
            if consumer.log.has_room(About::Success) {
                info!(job.id = %lease.id, job.kind = %kind, attempt = lease.attempt, elapsed_ms = duration_ms, "job succeeded");
            }
            trace::end(span, "succeeded", None);
            let settlement = Settlement::Succeeded {
                result,
                duration: elapsed,
            };
            (Ending::Succeeded, settlement)
        }
        Ended::InvalidPayload(text) => {
            let error = OutcomeError::new(codes::INVALID_PAYLOAD, text);
            failed(consumer, (&lease, span), duration_ms, &error, true);
            let settlement = Settlement::Dead {
                reason: DeadReason::Permanent,
                error: Some(error),
            };
            (Ending::Rejected, settlement)
        }
        Ended::Failed {
            code,
            message,
            retry_after,
        } => {
            let error = OutcomeError::new(code, message);
            let permanent = matches!(code, codes::PERMANENT | codes::RESULT_UNREADABLE);
            let dead = permanent || lease.is_last_attempt();
            failed(consumer, (&lease, span), duration_ms, &error, dead);
            let settlement = if permanent {
                Settlement::Dead {
                    reason: DeadReason::Permanent,
                    error: Some(error),
                }
            } else {
                Settlement::Failed { error, retry_after }
            };
            (Ending::Failed, settlement)
        }
    };
    report.ended(ending);
    settle(consumer, lease, settlement);
}

/// A job was cancelled while its handler ran.
pub(crate) fn cancelled(
    consumer: &Consumer,
    place: usize,
    (lease, span): (Arc<Lease>, Span),
    elapsed: Duration,
) {
    let report = consumer.report_of(place, true);
    report.ran(elapsed);
    let elapsed_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
    info!(job.id = %lease.id, job.kind = %lease.kind, elapsed_ms, "job cancelled");
    trace::end(span, "cancelled", None);
    report.ended(Ending::Cancelled);
    settle(consumer, lease, Settlement::Cancelled);
}

fn failed(
    consumer: &Consumer,
    (lease, span): (&Lease, Span),
    elapsed_ms: f64,
    error: &OutcomeError,
    dead: bool,
) {
    trace::end(span, if dead { "dead" } else { "retrying" }, Some(error));
    if consumer.log.has_room(About::Failure) {
        let next = if dead { "dead letter" } else { "retry" };
        warn!(
            job.id = %lease.id, job.kind = %lease.kind, attempt = lease.attempt, next, elapsed_ms,
            code = %error.code, error = ?loggable(error), "attempt failed"
        );
    }
}

/// Gives a job back that was not done, for another consumer to take.
pub(crate) fn give_back(consumer: &Consumer, lease: Arc<Lease>) {
    settle(consumer, lease, Settlement::GivenBack);
}

/// There is no handler for what the lane gave: it asks for the kinds that are served only.
pub(crate) fn no_handler(consumer: &Consumer, lease: Arc<Lease>) {
    consumer.durable_report.others.ended(Ending::Rejected);
    let settlement = Settlement::Dead {
        reason: DeadReason::NoHandler,
        error: None,
    };
    settle(consumer, lease, settlement);
}

fn settle(consumer: &Consumer, lease: Arc<Lease>, settlement: Settlement) {
    consumer.durable_jobs.fetch_sub(1, Ordering::AcqRel);
    if let Some(lane) = consumer.lane.get() {
        lane.settle(lease, settlement);
        lane.room_changed();
    }
}
