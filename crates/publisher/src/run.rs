use std::io;
use std::time::Duration;

use bootstrap::{Context, Nats, STILL};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::delivery::Delivery;
use crate::report::{Output, ProgressBar, Reporter};
use crate::source::{Item, JobSource};

/// One run of the publisher: takes jobs from their source, submits them, and reports their results.
pub(crate) struct Run {
    context: Context,
    nats: Nats,
    source: JobSource,
    delivery: Delivery,
    reporter: Reporter,
    tick: Interval,
    started: Instant,
    /// How long to wait at the end until the server has received everything.
    confirm_timeout: Duration,
    /// When to give up jobs under way; `None` until the service is told to stop.
    stop_by: Option<Instant>,
    /// Whether the input could not be read to its end, or published jobs may not have arrived.
    incomplete: bool,
}

impl Run {
    pub(crate) fn new(
        context: Context,
        nats: Nats,
        config: &Config,
        source: JobSource,
        delivery: Delivery,
        bar: Option<ProgressBar>,
        output: Option<Output>,
    ) -> Self {
        let few_jobs = matches!(source, JobSource::Generator(_))
            && config.interval_between_jobs() >= Duration::from_millis(200);
        let reporter = Reporter::new(config.delivery, few_jobs, &context.monitor, bar, output);
        let mut tick = tokio::time::interval(reporter.update_period());
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            context,
            nats,
            source,
            delivery,
            reporter,
            tick,
            started: Instant::now(),
            confirm_timeout: config.confirm_timeout,
            stop_by: None,
            incomplete: false,
        }
    }

    /// Submits all jobs, and returns whether all of them succeeded.
    pub(crate) async fn until_the_end(mut self) -> anyhow::Result<bool> {
        let worked = self.work().await;
        if worked.is_err() {
            self.record_events();
            self.give_up();
        }
        let ended = self.end().await;
        worked.and(ended)
    }

    /// Submits jobs until all have a result, or the time to stop is over.
    async fn work(&mut self) -> anyhow::Result<()> {
        let shutdown = self.context.shutdown.clone();
        let mut life = self.context.health.task("jobs", STILL);
        loop {
            self.submit_available();
            if matches!(self.source, JobSource::Ended) {
                let stopped = self.stop_by.is_some();
                self.delivery
                    .no_more(self.reporter.has_bad_lines() || self.incomplete || stopped);
            }
            self.record_events();
            if self.reporter.has_output() {
                // A slow reader of the outcomes may take any time.
                life.during(Duration::MAX, self.pass_outcomes_on(false))
                    .await?;
            }
            let ended = matches!(self.source, JobSource::Ended);
            if ended && self.delivery.under_way() == 0 {
                return Ok(());
            }
            let wants_more = !ended && self.delivery.has_room();
            // The value is not used before the service is told to stop.
            let stop_by = self.stop_by.unwrap_or(self.started);
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if self.stop_by.is_none() => self.stop(),
                () = tokio::time::sleep_until(stop_by), if self.stop_by.is_some() => {
                    self.give_up();
                    return Ok(());
                }
                _ = self.tick.tick() => {
                    life.beat();
                    self.reporter.update(
                        self.delivery.under_way(),
                        self.delivery.window(),
                        self.source.length(),
                    );
                    life.during(Duration::MAX, self.pass_outcomes_on(true)).await?;
                }
                driven = self.delivery.drive() => driven?,
                item = self.source.next(), if wants_more => self.take(item),
            }
        }
    }

    /// Submits jobs while there is room for them and the source has one at once.
    fn submit_available(&mut self) {
        while self.delivery.has_room() && !matches!(self.source, JobSource::Ended) {
            match self.source.try_next() {
                Ok(None) => return,
                item => self.take(item),
            }
        }
    }

    /// Submits a job of the source; `None` means that there are no more.
    fn take(&mut self, item: io::Result<Option<Item>>) {
        match item {
            Ok(Some(Item::Job(submission))) => {
                self.reporter.submitted();
                self.delivery.submit(submission);
            }
            Ok(Some(Item::BadLine(bad))) => self.reporter.bad_line(&bad),
            Ok(None) => self.source = JobSource::Ended,
            Err(problem) => {
                let source = std::mem::replace(&mut self.source, JobSource::Ended);
                if let JobSource::Input { name, .. } = source {
                    error!("cannot read on from the input {name}: {problem}");
                }
                self.incomplete = true;
            }
        }
    }

    fn record_events(&mut self) {
        while let Some(event) = self.delivery.take_event() {
            self.reporter.record(event);
        }
    }

    /// Passes outcomes to their file, but does not wait for it beyond the grace period.
    async fn pass_outcomes_on(&mut self, flush: bool) -> anyhow::Result<()> {
        let (shutdown, grace) = (&self.context.shutdown, grace(&self.context));
        let stop_by = self.stop_by;
        let deadline = async move {
            if let Some(stop_by) = stop_by {
                return tokio::time::sleep_until(stop_by).await;
            }
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        self.reporter.pass_outcomes_on(flush, deadline).await
    }

    /// Takes no more jobs.
    fn stop(&mut self) {
        self.source = JobSource::Ended;
        self.stop_by = Some(Instant::now() + grace(&self.context));
        let under_way = self.delivery.under_way();
        if under_way > 0 {
            info!(
                under_way,
                "taking no more jobs, waiting for those under way"
            );
        }
    }

    /// Gives up the jobs under way, and reports them.
    fn give_up(&mut self) {
        let abandoned = self.delivery.abandon();
        // The last results may have come with this.
        self.record_events();
        for job in &abandoned {
            self.reporter.gave_up(job);
        }
    }

    /// Waits until the server has received all jobs and the output is written, and logs the summary.
    async fn end(mut self) -> anyhow::Result<bool> {
        self.reporter.clear_bar();
        // When the service has to stop: the rest of the grace period, with the margin.
        let left = self.stop_by.map(|stop_by| {
            (stop_by + margin(&self.context)).saturating_duration_since(Instant::now())
        });
        if let Delivery::FireAndForget(_) = self.delivery
            && let Err(error) = self
                .nats
                .round_trip(left.unwrap_or(self.confirm_timeout))
                .await
        {
            warn!("jobs that were sent last may not have arrived: {error:#}");
            self.incomplete = true;
        }
        let written = self.reporter.close_output(left).await;
        self.reporter.log_summary();
        written?;
        Ok(!self.incomplete && self.reporter.all_succeeded())
    }
}

/// How long to wait for jobs under way after the service was told to stop.
fn grace(context: &Context) -> Duration {
    context.grace.saturating_sub(margin(context))
}

/// The part of the grace period that is kept for the output and the summary.
fn margin(context: &Context) -> Duration {
    (context.grace / 10).min(Duration::from_millis(500))
}
