//! Reports what happens to jobs: outcomes, log lines, progress, metrics and the summary.

mod counts;
mod job_log;
mod line_ranges;
mod metrics;
mod output;
mod progress_bar;
mod reporter;
mod summary;

pub(crate) use output::Output;
pub(crate) use progress_bar::{LogWriter, ProgressBar};
pub(crate) use reporter::Reporter;
