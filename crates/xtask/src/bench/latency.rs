//! How long it takes from submission to the start of the handler.
//!
//! Both sides get their jobs at the same time, one after the other, so what disturbs the machine
//! disturbs both.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::subjects;
use hdrhistogram::Histogram;
use test_support::{Service, Signal};
use tokio::time::{Instant, sleep_until};

use super::Settings;
use super::client::tell;
use super::figure::{Figure, Goal};
use super::job;
use super::probe::{Quantiles, histogram};
use super::stand::{Stand, result, rounds};

/// Where the bare side gets its jobs, as both sides are there at once.
pub(super) const BARE_SUBJECT: &str = "jobs.create.bare";

const JOBS_PER_SECOND: u32 = 200;

/// How long jobs took to start.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Mutex<Histogram<u64>>>);

impl Recorder {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(histogram())))
    }

    pub(super) fn record(&self, sent: u64, now: u64) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It grows with what it is given; only a value of centuries has no place in it.
        let _ = times.record(now.saturating_sub(sent));
    }

    pub(super) fn tell(&self) -> anyhow::Result<()> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&Quantiles::of(&times))
    }
}

/// Nanoseconds since 1970, on the clock that all processes of a machine share.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = since.expect("it is past 1970").as_nanos();
    u64::try_from(nanoseconds).expect("it is before 2500")
}

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let what = "latency at 200 jobs a second";
    let measured = rounds(settings, what, async |_| {
        let (bare, ours) = one_round(stand, 4 * settings.span()).await?;
        Ok((Some(bare), ours))
    })
    .await?;
    let [p50, p99] = Figure::quantiles("submit to handler start", &measured);
    Ok(vec![
        p50.goal(Goal::RatioAtMost(1.5)),
        p99.goal(Goal::RatioAtMost(2.0)),
    ])
}

async fn one_round(stand: &Stand, span: Duration) -> anyhow::Result<(Quantiles, Quantiles)> {
    let mut bare = stand.role("bare-latency-consumer", "worker")?.start();
    let mut ours = stand.role("our-latency-consumer", "worker")?.start();
    stand.wait_for_members(BARE_SUBJECT, 1).await;
    stand.wait_for_members(subjects::CREATE, 1).await;
    let client = stand.client("publisher").await;
    let gap = Duration::from_secs(1) / JOBS_PER_SECOND / 2;
    let start = Instant::now();
    let mut subjects = [BARE_SUBJECT, subjects::CREATE].iter().cycle();
    for number in 0.. {
        let at = start + gap * number;
        if at >= start + span {
            break;
        }
        sleep_until(at).await;
        if let Some(subject) = subjects.next() {
            client.publish(*subject, job::stamped(now())).await?;
        }
    }
    stand.settle(&client).await?;
    Ok((end(&mut bare).await?, end(&mut ours).await?))
}

async fn end(consumer: &mut Service) -> anyhow::Result<Quantiles> {
    consumer.signal(Signal::SIGTERM);
    result(consumer).await
}
