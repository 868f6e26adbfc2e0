use std::time::Duration;

use bootstrap::Monitor;
use tokio::time::Instant;

use super::job_log::JobLog;
use super::metrics::{MetricValues, Metrics};
use super::output::Output;
use super::progress_bar::ProgressBar;
use super::summary::Summary;
use crate::config::Guarantee;
use crate::delivery::{Abandoned, DeliveryEvent};
use crate::durable::StoreResult;
use crate::outcome::unsuccessful;
use crate::source::BadLine;
use crate::submission::Submission;

/// How often progress is logged.
const PERIOD: Duration = Duration::from_secs(5);

/// Reports what happens to jobs: in the log, the output, the progress bar and the metrics.
pub(crate) struct Reporter {
    summary: Summary,
    metrics: Metrics,
    log: JobLog,
    bar: Option<ProgressBar>,
    /// `None` without `--output`, and after an error of it.
    output: Option<Output>,
    /// Whether progress is logged.
    log_progress: bool,
    started: Instant,
    last_period: Instant,
    /// How many bytes of the input are done.
    bytes: u64,
}

impl Reporter {
    /// With `each_job` there are so few jobs a second that each of them gets a log line.
    pub(crate) fn new(
        delivery: Guarantee,
        each_job: bool,
        monitor: &Monitor,
        bar: Option<ProgressBar>,
        output: Option<Output>,
    ) -> Self {
        let metrics = Metrics::default();
        monitor.register(metrics.clone());
        let started = Instant::now();
        Self {
            summary: Summary::new(delivery),
            metrics,
            log: JobLog::new(each_job),
            log_progress: !each_job && bar.is_none(),
            bar,
            output,
            started,
            last_period: started,
            bytes: 0,
        }
    }

    /// How often to call [`Reporter::update`].
    pub(crate) fn update_period(&self) -> Duration {
        if self.bar.is_some() || self.output.is_some() {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(1)
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        self.output.is_some()
    }

    pub(crate) fn has_bad_lines(&self) -> bool {
        self.summary.counts.bad_lines > 0
    }

    /// Whether all lines of the input were jobs, and no job was without success.
    pub(crate) fn all_succeeded(&self) -> bool {
        let counts = &self.summary.counts;
        counts.not_succeeded() == 0 && counts.bad_lines == 0
    }

    pub(crate) fn submitted(&mut self) {
        self.summary.submitted();
    }

    pub(crate) fn bad_line(&mut self, bad: &BadLine) {
        self.bytes += bad.line.bytes;
        self.summary.bad_line(bad.line.number);
        self.log.bad_line(bad);
        if let Some(output) = &mut self.output {
            let status = common::Status::Rejected;
            let outcome = unsuccessful(bad.id, status, 0, bad.error.clone());
            output.add(Some(bad.line.number), &outcome, None);
        }
    }

    pub(crate) fn record(&mut self, event: DeliveryEvent) {
        match event {
            DeliveryEvent::Finished(finished) => {
                let (submission, elapsed) = (&finished.submission, finished.elapsed);
                self.input_done(submission);
                self.summary.finished(&finished);
                self.log.ended(submission, &finished.outcome, elapsed);
                if let Some(output) = &mut self.output {
                    let elapsed_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
                    let line = submission.line_number();
                    output.add(line, &finished.outcome, Some(elapsed_ms));
                }
            }
            DeliveryEvent::Published(published) => {
                let submission = &published.submission;
                self.input_done(submission);
                match &published.result {
                    Ok(()) => {
                        self.summary.sent();
                        self.log.sent(submission);
                    }
                    Err(outcome) => {
                        self.summary.ended(outcome);
                        self.log.ended(submission, outcome, Duration::ZERO);
                    }
                }
            }
            DeliveryEvent::Stored(stored) => self.record_stored(&stored),
        }
    }

    fn record_stored(&mut self, stored: &StoreResult) {
        self.input_done(&stored.submission);
        self.summary.stored(stored);
        match &stored.result {
            Ok(submitted) => self.log.stored(&stored.submission, *submitted),
            Err(outcome) => self.log.ended(&stored.submission, outcome, stored.elapsed),
        }
        if let Some(output) = &mut self.output {
            output.add_stored(stored);
        }
    }

    pub(crate) fn gave_up(&mut self, abandoned: &Abandoned) {
        self.summary.gave_up(&abandoned.submission);
        if let (Some(output), Some(outcome)) = (&mut self.output, &abandoned.outcome) {
            output.add(abandoned.submission.line_number(), outcome, None);
        }
    }

    fn input_done(&mut self, submission: &Submission) {
        self.bytes += submission.input_line.map_or(0, |line| line.bytes);
    }

    /// Updates metrics and progress. `input_length` is in bytes; `None` if it is not known.
    pub(crate) fn update(
        &mut self,
        under_way: usize,
        window: Option<usize>,
        input_length: Option<u64>,
    ) {
        self.metrics.set(MetricValues {
            counts: self.summary.counts,
            under_way,
            window,
        });
        if let Some(bar) = &self.bar {
            bar.update(&self.summary.counts, self.bytes, self.started.elapsed());
        }
        let elapsed = self.last_period.elapsed();
        // A tick may come a little early by this clock.
        if elapsed + Duration::from_millis(50) < PERIOD {
            return;
        }
        self.last_period = Instant::now();
        self.log.next_period();
        if self.log_progress {
            let percent = input_length.map(|length| self.bytes * 100 / length.max(1));
            self.summary.log_progress(elapsed, under_way, percent);
        }
    }

    /// Passes outcomes to their file, all of them if `flush` is set. Waits while the file is behind,
    /// but not longer than until `deadline` is ready. After an error there is no output any more.
    pub(crate) async fn pass_outcomes_on(
        &mut self,
        flush: bool,
        deadline: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Some(output) = &mut self.output else {
            return Ok(());
        };
        let result = tokio::select! {
            biased;
            result = output.pass_on(flush) => result,
            () = deadline => Err(anyhow::anyhow!("the outcomes cannot be written: their reader takes none")),
        };
        if result.is_err() {
            self.output = None;
        }
        result
    }

    /// Writes all outcomes, within this time if it is given.
    pub(crate) async fn close_output(&mut self, within: Option<Duration>) -> anyhow::Result<()> {
        match (self.output.take(), within) {
            (None, _) => Ok(()),
            (Some(output), None) => output.close().await,
            (Some(output), Some(within)) => tokio::time::timeout(within, output.close())
                .await
                .unwrap_or_else(|_| {
                    Err(anyhow::anyhow!("the outcomes were not all written in time"))
                }),
        }
    }

    /// Removes the progress bar, before the last log lines.
    pub(crate) fn clear_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.clear();
        }
    }

    pub(crate) fn log_summary(&mut self) {
        self.log.next_period();
        self.summary.log_summary(self.started.elapsed());
    }
}
