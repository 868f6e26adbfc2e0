use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bootstrap::{Context, Misconfigured, Nats};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::answer::not_succeeded;
use crate::config::{Config, Guarantee};
use crate::delivery::{Delivery, Event};
use crate::input::{BadLine, Input, Item, Source, same_file};
use crate::job_log::JobLog;
use crate::output::Output;
use crate::pace::Pace;
use crate::progress::{Bar, LogWriter};
use crate::report::Report;
use crate::schedule::Schedule;
use crate::submission::Submission;
use crate::submitter::SubmitOptions;

/// How often progress is logged, where no bar shows it.
const PERIOD: Duration = Duration::from_secs(5);

/// Hands jobs over until there are no more, or the service is told to stop; then waits for those
/// that are under way, as long as the grace period allows.
///
/// The exit code is 0 if all jobs succeeded. Jobs without end are no task that could fail: what
/// became of them is in the log, and the exit code is 0.
///
/// # Errors
/// When the configuration is wrong, NATS refuses the service, or an outcome cannot be written.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let (source, output) = open(&config).map_err(|error| Misconfigured(format!("{error:#}")))?;
    let bar = source
        .as_ref()
        .and_then(|source| Bar::on_terminal(source.length));
    let outcomes_on_stdout = config.output.as_deref() == Some(Path::new("-"));
    if bar.is_some() || outcomes_on_stdout {
        bootstrap::redirect_logs(LogWriter::new(bar.as_ref(), outcomes_on_stdout));
    }
    let nats = context.connect("jobs").await?;
    context.register(&nats).await?;
    let delivery = match config.delivery {
        Guarantee::Confirmed => {
            let options = SubmitOptions {
                in_flight: config.in_flight as usize,
                confirm_timeout: config.confirm_timeout,
                max_attempts: config.max_attempts,
                by_kind: config.by_kind,
            };
            Delivery::confirmed(&nats, options).await?
        }
        Guarantee::FireAndForget => Delivery::fire_and_forget(&nats, config.by_kind),
    };
    // Where jobs come slowly, each of them is worth a line.
    let slow = source.is_none() && config.interval_between_jobs() >= Duration::from_millis(200);
    let jobs = Jobs::new(source, &config, &nats)?;
    let finite = config.input.is_some() || config.count.is_some();
    let mut tick = tokio::time::interval(if bar.is_some() || output.is_some() {
        Duration::from_millis(100)
    } else {
        PERIOD
    });
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let started = Instant::now();
    let run = Run {
        report: Report::new(config.delivery),
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
    };
    let all_well = run.until_the_end().await?;
    Ok(if all_well || !finite {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Opens what jobs are read from and what outcomes are written to.
fn open(config: &Config) -> anyhow::Result<(Option<Source>, Option<Output>)> {
    if let (Some(output), Guarantee::FireAndForget) = (&config.output, config.delivery) {
        anyhow::bail!(
            "--output {} has nothing to write: with --delivery fire-and-forget there are no outcomes",
            output.display()
        );
    }
    if let (Some(input), Some(output)) = (&config.input, &config.output)
        && same_file(input, output)
    {
        anyhow::bail!(
            "--output {} would overwrite what --input reads",
            output.display()
        );
    }
    let source = config.input.as_deref().map(Source::open).transpose()?;
    let output = config.output.as_deref().map(Output::open).transpose()?;
    Ok((source, output))
}

/// Where jobs come from.
enum Jobs {
    Input {
        input: Input,
        name: String,
        length: Option<u64>,
    },
    Schedule(Schedule),
    Ended,
}

impl Jobs {
    fn new(source: Option<Source>, config: &Config, nats: &Nats) -> anyhow::Result<Self> {
        // An id and a time of creation may come in addition, and white space fall away.
        const SLACK: usize = 1024;
        if let Some(source) = source {
            let (name, length) = (source.name.clone(), source.length);
            info!(input = %name, "reading jobs");
            let input = source.read(nats.client.max_payload() + SLACK)?;
            return Ok(Self::Input {
                input,
                name,
                length,
            });
        }
        let now = Instant::now();
        let pace = match config.rate {
            Some(rate) => Pace::at_rate(rate, now),
            None => Pace::every(config.interval, now),
        };
        info!(job.kind = %config.kind, count = config.count, "making jobs");
        Ok(Self::Schedule(Schedule {
            pace,
            remaining: config.count,
            kind: config.kind.clone(),
            payload: config.payload.0.clone(),
            timeout: config.timeout,
            deadline: config.deadline.map(common::WireDuration::get),
        }))
    }

    /// The next one if there is one now.
    fn try_next(&mut self) -> std::io::Result<Option<Item>> {
        match self {
            Self::Input { input, .. } => input.try_next(),
            Self::Schedule(schedule) => Ok(schedule.try_next().map(Item::Job)),
            Self::Ended => Ok(None),
        }
    }

    /// The next one as soon as there is one; none after the last.
    async fn next(&mut self) -> std::io::Result<Option<Item>> {
        match self {
            Self::Input { input, .. } => input.next().await,
            Self::Schedule(schedule) => Ok(schedule.next().await.map(Item::Job)),
            Self::Ended => Ok(None),
        }
    }
}

/// One run of the publisher.
struct Run {
    context: Context,
    nats: Nats,
    jobs: Jobs,
    delivery: Delivery,
    report: Report,
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
    /// Answers whether all went well.
    async fn until_the_end(mut self) -> anyhow::Result<bool> {
        let shutdown = self.context.shutdown.clone();
        loop {
            self.submit_what_is_there();
            while let Some(event) = self.delivery.take_event() {
                self.record(event);
            }
            self.pass_outcomes_on(false).await?;
            if matches!(self.jobs, Jobs::Ended) && self.delivery.under_way() == 0 {
                break;
            }
            let wants_more = !matches!(self.jobs, Jobs::Ended) && self.delivery.has_room();
            // As good as never, where it is not waited for.
            let stop_by = self.stop_by.unwrap_or(self.started);
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if self.stop_by.is_none() => self.stop(),
                () = tokio::time::sleep_until(stop_by), if self.stop_by.is_some() => {
                    self.give_up();
                    break;
                }
                _ = self.tick.tick() => {
                    self.tell();
                    self.pass_outcomes_on(true).await?;
                }
                () = self.delivery.drive() => {}
                item = self.jobs.next(), if wants_more => self.take(item),
            }
        }
        self.end().await
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
    fn take(&mut self, item: std::io::Result<Option<Item>>) {
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

    fn record(&mut self, event: Event) {
        let finished = match event {
            Event::Finished(finished) => finished,
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

    fn done_with(&mut self, submission: &Submission) {
        self.bytes += submission.origin.map_or(0, |origin| origin.bytes);
    }

    /// Hands outcomes to their file; gives up on one that takes none when the service has to end.
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
        tokio::select! {
            biased;
            result = output.pass_on(anyway) => result,
            () = end => anyhow::bail!("nobody takes the outcomes that are to be written"),
        }
    }

    /// Tells how it goes.
    fn tell(&mut self) {
        if let Some(bar) = &self.bar {
            bar.update(&self.report.counts, self.bytes, self.started.elapsed());
        }
        let elapsed = self.last_period.elapsed();
        if elapsed < PERIOD {
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
        match &mut self.delivery {
            Delivery::FireAndForget(unconfirmed) => {
                for submission in unconfirmed.abandon() {
                    self.report.gave_up(&submission);
                }
            }
            Delivery::Confirmed(submitter) => {
                for finished in submitter.abandon() {
                    self.report.gave_up(&finished.submission);
                    if let Some(output) = &mut self.output {
                        output.add(finished.submission.line(), &finished.outcome, None);
                    }
                }
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
