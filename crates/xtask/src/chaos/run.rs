//! One run: a load, faults, and the end of all jobs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::fault::Fault;
use super::history::{Event, History, now};
use super::inject;
use super::plan::plan;
use super::settle::settle;
use super::stand::{Fleet, Stand};
use super::submit::Load;
use super::ticks;

/// What a run is made of.
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) span: Duration,
    pub(super) jobs_per_second: u32,
    pub(super) faults: Vec<Fault>,
    pub(super) cluster: bool,
}

/// Runs it, notes all that happens, and returns what the services have logged.
pub(super) async fn run(settings: &Settings, history: &History) -> anyhow::Result<String> {
    let &Settings {
        seed,
        span,
        jobs_per_second,
        cluster,
        ..
    } = settings;
    history.note(Event::Began {
        at: now(),
        seed,
        seconds: span.as_secs(),
        jobs_per_second,
        faults: settings.faults.clone(),
        cluster,
    });
    let stand = Arc::new(Stand::start(cluster, Fleet::Whole).await?);
    ticks::store(&stand, history, span).await?;
    let planned = plan(seed, span, &settings.faults);
    let load =
        tokio::task::spawn_local(Load::new(&stand, history).run(seed, span, jobs_per_second));
    inject::all(&stand, history, planned).await?;
    load.await.context("the load failed")??;
    settle(&stand, history).await?;
    close(&stand, history).await
}

/// Ends the services, and notes how, and what the handlers did.
pub(super) async fn close(stand: &Stand, history: &History) -> anyhow::Result<String> {
    for (service, why) in stand.stop().await {
        history.note(Event::ServiceFailed { service, why });
    }
    for event in stand.ledger.events()? {
        history.note(event);
    }
    Ok(stand.logs().await)
}
