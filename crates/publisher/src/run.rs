use std::io;
use std::time::Duration;

use bootstrap::{Context, Nats, STILL};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::answer::not_succeeded;
use crate::config::Config;
use crate::delivery::{Delivery, Event};
use crate::input::{BadLine, Item};
use crate::job_log::JobLog;
use crate::jobs::Jobs;
use crate::metrics::{Figures, Metrics};
use crate::output::Output;
use crate::progress::Bar;
use crate::report::Report;
use crate::stored::Kept;
use crate::submission::Submission;

/// How often a scrape sees new figures, at least.
const FIGURES: Duration = Duration::from_secs(1);

/// How often progress is logged, where no bar shows it.
const PERIOD: Duration = Duration::from_secs(5);

/// One run of the publisher.
pub(crate) struct Run {
    context: Context,
    nats: Nats,
    jobs: Jobs,
    delivery: Delivery,
    report: Report,
    metrics: Metrics,
    log: JobLog,
    bar: Option<Bar>,
    output: Option<Output>,
    /// Whether progress is logged.
    progress: bool,
    /// How long the server is waited for at the end.
    patience: Duration,
    tick: Interval,
    started: Instant,
    last_period: Instant,
    /// So much of the input is done with.
    bytes: u64,
    /// Set when the service was told to stop.
    stop_by: Option<Instant>,
    /// Whether the input broke off, or not all that was sent may have arrived.
    broken: bool,
}

impl Run {
    pub(crate) fn new(
        context: Context,
        nats: Nats,
        config: &Config,
        jobs: Jobs,
        delivery: Delivery,
        bar: Option<Bar>,
        output: Option<Output>,
    ) -> Self {
        // Where jobs come slowly, each of them is worth a line.
        let slow = matches!(jobs, Jobs::Schedule(_))
            && config.interval_between_jobs() >= Duration::from_millis(200);
        let mut tick = tokio::time::interval(if bar.is_some() || output.is_some() {
            Duration::from_millis(100)
        } else {
            FIGURES
        });
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let metrics = Metrics::default();
        context.monitor.register(metrics.clone());
        let started = Instant::now();
        Self {
            report: Report::new(config.delivery),
            metrics,
            log: JobLog::new(slow),
            progress: !slow && bar.is_none(),
            patience: config.confirm_timeout,
            jobs,
            delivery,
            bar,
            output,
            tick,
            started,
            last_period: started,
            bytes: 0,
            stop_by: None,
            broken: false,
            nats,
            context,
        }
    }

    /// Hands over all jobs, and answers whether all went well.
    pub(crate) async fn until_the_end(mut self) -> anyhow::Result<bool> {
        let worked = self.work().await;
        if worked.is_err() {
            self.record_what_happened();
            self.give_up();
        }
        let ended = self.end().await;
        worked.and(ended)
    }

    /// Hands over jobs until there are no more, or the time to stop has run out.
    async fn work(&mut self) -> anyhow::Result<()> {
        let shutdown = self.context.shutdown.clone();
        let mut life = self.context.health.task("jobs", STILL);
        loop {
            self.submit_what_is_there();
            if matches!(self.jobs, Jobs::Ended) {
                let bad_lines = self.report.counts.bad_lines > 0;
                self.delivery
                    .no_more(bad_lines || self.broken || self.stop_by.is_some());
            }
            self.record_what_happened();
            if self.output.is_some() {
                // Whoever reads them may take its time.
                life.during(Duration::MAX, self.pass_outcomes_on(false))
                    .await?;
            }
            if matches!(self.jobs, Jobs::Ended) && self.delivery.under_way() == 0 {
                return Ok(());
            }
            let wants_more = !matches!(self.jobs, Jobs::Ended) && self.delivery.has_room();
            // As good as never, where it is not waited for.
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
                    self.tell();
                    life.during(Duration::MAX, self.pass_outcomes_on(true)).await?;
                }
                driven = self.delivery.drive() => driven?,
                item = self.jobs.next(), if wants_more => self.take(item),
            }
        }
    }

    /// Submits until there is no room, or no job without waiting for it.
    fn submit_what_is_there(&mut self) {
        while self.delivery.has_room() && !matches!(self.jobs, Jobs::Ended) {
            match self.jobs.try_next() {
                Ok(None) => return,
                item => self.take(item),
            }
        }
    }

    /// Submits a job that was read or made.
    fn take(&mut self, item: io::Result<Option<Item>>) {
        match item {
            Ok(Some(Item::Job(submission))) => {
                self.report.submitted();
                self.delivery.submit(submission);
            }
            Ok(Some(Item::Bad(bad))) => self.bad_line(&bad),
            Ok(None) => self.jobs = Jobs::Ended,
            Err(problem) => {
                if let Jobs::Input { name, .. } = std::mem::replace(&mut self.jobs, Jobs::Ended) {
                    error!("cannot read on from the input {name}: {problem}");
                }
                self.broken = true;
            }
        }
    }

    fn bad_line(&mut self, bad: &BadLine) {
        self.bytes += bad.origin.bytes;
        self.report.bad_line(bad.origin.line);
        self.log.bad_line(bad);
        if let Some(output) = &mut self.output {
            let status = common::Status::Rejected;
            let outcome = not_succeeded(bad.id, status, 0, bad.error.clone());
            output.add(Some(bad.origin.line), &outcome, None);
        }
    }

    fn record_what_happened(&mut self) {
        while let Some(event) = self.delivery.take_event() {
            self.record(event);
        }
    }

    fn record(&mut self, event: Event) {
        let finished = match event {
            Event::Finished(finished) => finished,
            Event::Kept(kept) => return self.record_kept(&kept),
            Event::Sent(sent) => {
                self.done_with(&sent.submission);
                match &sent.refused {
                    None => {
                        self.report.sent();
                        self.log.sent(&sent.submission);
                    }
                    Some(outcome) => {
                        self.report.ended(outcome);
                        self.log.ended(&sent.submission, outcome, Duration::ZERO);
                    }
                }
                return;
            }
        };
        let (submission, elapsed) = (&finished.submission, finished.elapsed);
        self.done_with(submission);
        self.report.finished(&finished);
        self.log.ended(submission, &finished.outcome, elapsed);
        if let Some(output) = &mut self.output {
            let elapsed_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
            output.add(submission.line(), &finished.outcome, Some(elapsed_ms));
        }
    }

    fn record_kept(&mut self, kept: &Kept) {
        self.done_with(&kept.submission);
        self.report.kept(kept);
        match &kept.result {
            Ok(submitted) => self.log.stored(&kept.submission, *submitted),
            Err(outcome) => self.log.ended(&kept.submission, outcome, kept.elapsed),
        }
        if let Some(output) = &mut self.output {
            output.add_kept(kept);
        }
    }

    fn done_with(&mut self, submission: &Submission) {
        self.bytes += submission.origin.map_or(0, |origin| origin.bytes);
    }

    /// Hands outcomes to their file; gives up on one that takes none when the service has to end.
    /// After an error there is no file any more.
    async fn pass_outcomes_on(&mut self, anyway: bool) -> anyhow::Result<()> {
        let Some(output) = &mut self.output else {
            return Ok(());
        };
        let (shutdown, grace) = (&self.context.shutdown, grace(&self.context));
        let end = async {
            if let Some(stop_by) = self.stop_by {
                return tokio::time::sleep_until(stop_by).await;
            }
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let result = tokio::select! {
            biased;
            result = output.pass_on(anyway) => result,
            () = end => Err(anyhow::anyhow!("nobody takes the outcomes that are to be written")),
        };
        if result.is_err() {
            self.output = None;
        }
        result
    }

    /// Tells how it goes.
    fn tell(&mut self) {
        self.metrics.set(Figures {
            counts: self.report.counts,
            under_way: self.delivery.under_way(),
            window: self.delivery.window(),
        });
        if let Some(bar) = &self.bar {
            bar.update(&self.report.counts, self.bytes, self.started.elapsed());
        }
        let elapsed = self.last_period.elapsed();
        // A tick may come a little early by this clock.
        if elapsed + Duration::from_millis(50) < PERIOD {
            return;
        }
        self.last_period = Instant::now();
        self.log.next_period();
        if self.progress {
            let length = match &self.jobs {
                Jobs::Input { length, .. } => *length,
                _ => None,
            };
            let percent = length.map(|length| self.bytes * 100 / length.max(1));
            self.report
                .progress(elapsed, self.delivery.under_way(), percent);
        }
    }

    /// Takes no more jobs.
    fn stop(&mut self) {
        self.jobs = Jobs::Ended;
        self.stop_by = Some(Instant::now() + grace(&self.context));
        let under_way = self.delivery.under_way();
        if under_way > 0 {
            info!(
                under_way,
                "taking no more jobs, waiting for those under way"
            );
        }
    }

    /// Names what is under way and does not wait for it.
    fn give_up(&mut self) {
        let abandoned = match &mut self.delivery {
            Delivery::FireAndForget(unconfirmed) => {
                for submission in unconfirmed.abandon() {
                    self.report.gave_up(&submission);
                }
                return;
            }
            Delivery::Confirmed(submitter) => submitter.abandon(),
            Delivery::Durable(stored) => stored.abandon(),
        };
        // Some were confirmed in the last moment.
        self.record_what_happened();
        for finished in abandoned {
            self.report.gave_up(&finished.submission);
            if let Some(output) = &mut self.output {
                output.add(finished.submission.line(), &finished.outcome, None);
            }
        }
    }

    async fn end(mut self) -> anyhow::Result<bool> {
        if let Some(bar) = &self.bar {
            bar.clear();
        }
        // What is left of the grace period, with the margin that was kept for this.
        let patience = match self.stop_by {
            Some(stop_by) => {
                (stop_by + margin(&self.context)).saturating_duration_since(Instant::now())
            }
            None => self.patience,
        };
        if let Delivery::FireAndForget(_) = self.delivery
            && let Err(error) = self.nats.round_trip(patience).await
        {
            warn!("jobs that were sent last may not have arrived: {error:#}");
            self.broken = true;
        }
        let written = match self.output.take() {
            None => Ok(()),
            Some(output) if self.stop_by.is_none() => output.close().await,
            Some(output) => tokio::time::timeout(patience, output.close())
                .await
                .unwrap_or_else(|_| {
                    Err(anyhow::anyhow!("the outcomes were not all written in time"))
                }),
        };
        self.log.next_period();
        self.report.summary(self.started.elapsed());
        written?;
        let counts = &self.report.counts;
        Ok(!self.broken && counts.not_succeeded() == 0 && counts.bad_lines == 0)
    }
}

/// How long jobs may be waited for after the service was told to stop.
fn grace(context: &Context) -> Duration {
    context.grace.saturating_sub(margin(context))
}

/// What is kept of the grace period for the last words.
fn margin(context: &Context) -> Duration {
    (context.grace / 10).min(Duration::from_millis(500))
}
