//! Logs: each line has a sentence, its fields and the name of the instance. They go to standard output
//! unless a service redirects them.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: time, level, instance, a sentence, its fields.
    Pretty,
    /// For programs: one JSON object a line.
    Json,
}

/// Log levels of libraries. The NATS client logs connects and losses at `info`, which this crate logs
/// itself; `opentelemetry` warns when spans are dropped.
const QUIET: &str = "async_nats=warn,opentelemetry=warn,opentelemetry_sdk=warn";

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub(crate) fn init(filter: &str, format: LogFormat, instance: &str) -> anyhow::Result<()> {
    // The user's directives come later, so they win.
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .with_context(|| format!("invalid value {filter:?} of --log or RUST_LOG"))?;
    let instance = instance.to_owned();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(|| Output);
    match format {
        LogFormat::Pretty => builder.event_format(Lines { instance }).try_init(),
        LogFormat::Json => builder
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines {
                instance,
                inner: Format::default().json().flatten_event(true),
            })
            .try_init(),
    }
    .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// The destination of log lines; standard output while this is empty.
static REDIRECTED: OnceLock<Mutex<Box<dyn Write + Send>>> = OnceLock::new();

/// Sends log lines to `writer` from now on, each with one call of `write_all`. This is for a service that
/// uses standard output for something else or draws on a terminal.
///
/// Only the first call in a process has an effect.
pub fn redirect_logs(writer: impl Write + Send + 'static) {
    REDIRECTED.get_or_init(|| Mutex::new(Box::new(writer)));
}

struct Output;

impl Output {
    fn with<T>(use_writer: impl FnOnce(&mut dyn Write) -> T) -> T {
        match REDIRECTED.get() {
            Some(writer) => use_writer(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner)),
            None => use_writer(&mut io::stdout()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Self::with(|writer| writer.write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::with(|writer| writer.flush())
    }
}

struct Lines {
    instance: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        write!(
            writer,
            "{now} {:5} {} ",
            event.metadata().level(),
            self.instance
        )?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

struct JsonLines {
    instance: String,
    inner: Format<Json>,
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').unwrap_or(&line);
        // The name was checked: it has no characters that JSON escapes.
        write!(writer, "{{\"instance\":\"{}\",{rest}", self.instance)
    }
}
