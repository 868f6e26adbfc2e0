use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    Protocol, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tracing::{info, warn};

use super::options::{Endpoint, TraceOptions};
use crate::About;

/// The shortest time between two warnings that the collector takes no spans.
const WARNING_PERIOD: Duration = Duration::from_mins(1);

/// Time-out of connecting to the collector.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time-out of sending a batch, with all retries.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for sending the last spans when the service stops.
const MAX_FLUSH: Duration = Duration::from_secs(3);

/// The time for sending the last spans that is always allowed, even if the grace period is over.
const MIN_FLUSH: Duration = Duration::from_millis(250);

/// Whether spans are recorded. It is read for each job, so it has to be cheap.
static ON: AtomicBool = AtomicBool::new(false);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Whether spans are recorded. If not, a [`Span`](super::Span) only passes on a context from elsewhere.
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// `None` if no spans are recorded.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    if is_on() { TRACER.get() } else { None }
}

/// The export of spans; empty without a collector.
#[derive(Debug, Default)]
pub(crate) struct Exporting(Option<SdkTracerProvider>);

/// Starts to record spans, if a collector is configured.
///
/// # Errors
/// When the endpoint is invalid or the export cannot be set up; the error shows no secret.
pub(crate) fn start(
    options: &TraceOptions,
    about: &About,
    instance: &str,
) -> anyhow::Result<Exporting> {
    let Some(endpoint) = &options.otlp_endpoint else {
        return Ok(Exporting::default());
    };
    let endpoint: Endpoint = endpoint.parse().map_err(|error| {
        anyhow::anyhow!("--otlp-endpoint or OTEL_EXPORTER_OTLP_ENDPOINT: {error}")
    })?;
    let exporter = Exporter::new(&endpoint).context("cannot set up the export of spans")?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
        resource = resource.with_service_name(about.name);
    }
    let resource = resource.with_attributes([
        KeyValue::new("service.version", about.version),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ]);
    // The service that begins a trace decides whether it is recorded: each trace is complete or absent.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.trace_ratio)));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("jobs");
    anyhow::ensure!(TRACER.set(tracer).is_ok(), "traces were started before");
    ON.store(true, Ordering::Relaxed);
    Ok(Exporting(Some(provider)))
}

impl Exporting {
    /// Sends the last spans. `left` is the rest of the grace period.
    pub(crate) fn finish(self, left: Duration) {
        let Some(provider) = self.0 else { return };
        ON.store(false, Ordering::Relaxed);
        if let Err(error) = provider.shutdown_with_timeout(left.clamp(MIN_FLUSH, MAX_FLUSH)) {
            warn!(%error, "the last spans were not sent");
        }
    }
}

/// Sends spans on the thread of the SDK, and logs now and then that it cannot.
struct Exporter {
    otlp: OtlpExporter,
    /// A separate runtime, so that jobs and exports do not wait for each other.
    runtime: tokio::runtime::Runtime,
    log: Mutex<ExportLog>,
}

/// What was logged of the exports.
#[derive(Default)]
struct ExportLog {
    /// Whether the collector has ever taken spans.
    has_succeeded: bool,
    warned_at: Option<Instant>,
    /// Whether there was a warning since the last success.
    is_failing: bool,
    /// Spans lost since the last success.
    lost: usize,
}

impl Exporter {
    fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        static CRYPTOGRAPHY: Once = Once::new();
        CRYPTOGRAPHY.call_once(|| {
            // An error means that the program chose a provider before, which is fine.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Another server would get the headers.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // A collector is usually on the same network, which a proxy may not reach.
            .no_proxy();
        if endpoint.is_plain() {
            // Plain HTTP needs no root certificates, which a small image may lack.
            client = client.tls_certs_only([]);
        }
        let client = client.build().context("TLS cannot be set up")?;
        let otlp = OtlpExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.traces())
            .build()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            otlp,
            runtime,
            log: Mutex::default(),
        })
    }

    fn log(&self, result: OTelSdkResult, spans: usize) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) if log.is_failing || !log.has_succeeded => {
                log.has_succeeded = true;
                log.is_failing = false;
                let lost = std::mem::take(&mut log.lost);
                info!(lost, "the collector takes spans");
            }
            Ok(()) => {}
            Err(error) => {
                log.lost += spans;
                if log
                    .warned_at
                    .is_none_or(|at| at.elapsed() >= WARNING_PERIOD)
                {
                    log.warned_at = Some(Instant::now());
                    log.is_failing = true;
                    // Logged escaped: it may repeat a text of the collector.
                    let error = error.to_string();
                    warn!(lost = log.lost, ?error, "the collector takes no spans");
                }
            }
        }
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        // The SDK calls this on its own thread, which has no runtime.
        let result = self.runtime.block_on(async {
            // The exporter sets this time-out only on a client that it made itself.
            let sent = tokio::time::timeout(EXPORT_TIMEOUT, self.otlp.export(batch)).await;
            sent.unwrap_or(Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)))
        });
        self.log(result, spans);
        // The error was logged above, and the SDK need not log it again.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

impl std::fmt::Debug for Exporter {
    /// Shows no header.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}
