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

/// How often it is said that a collector does not take spans.
const TELL: Duration = Duration::from_mins(1);

/// How long a collector is waited for that does not answer to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a collector may take over a batch, with all repetitions.
const LONGEST: Duration = Duration::from_secs(10);

/// The most of the grace period that the last spans may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// The least: a collector that is there needs no more.
const LEAST: Duration = Duration::from_millis(250);

/// Whether spans are made; looked at for each job, so it is no more than a load.
static ON: AtomicBool = AtomicBool::new(false);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Whether spans are made: if not, there are only those that pass on what others have begun.
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Who makes spans, if they are wanted.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    if is_on() { TRACER.get() } else { None }
}

/// Spans on their way to a collector, until the service ends; nothing without one.
#[derive(Debug, Default)]
pub(crate) struct Exporting(Option<SdkTracerProvider>);

/// Starts to record spans, if there is a collector for them.
///
/// # Errors
/// When what is sent to it cannot be set up; no secret is in the error.
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
    let exporter = Exporter::new(&endpoint).context("spans cannot be sent")?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
        resource = resource.with_service_name(about.name);
    }
    let resource = resource.with_attributes([
        KeyValue::new("service.version", about.version),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ]);
    // Others have decided for their traces: one is whole, or not there at all.
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
    /// Sends the last spans; `left` is what is left of the grace period.
    pub(crate) fn finish(self, left: Duration) {
        let Some(provider) = self.0 else { return };
        ON.store(false, Ordering::Relaxed);
        if let Err(error) = provider.shutdown_with_timeout(left.clamp(LEAST, FAREWELL)) {
            warn!(%error, "the last spans were not sent");
        }
    }
}

/// Sends spans from the thread of the SDK, and says now and then that it cannot.
struct Exporter {
    otlp: OtlpExporter,
    /// Its own: neither do jobs wait for a collector, nor it for them.
    runtime: tokio::runtime::Runtime,
    trouble: Mutex<Trouble>,
}

/// What is to be told of a collector.
#[derive(Default)]
struct Trouble {
    /// Whether it has ever taken some.
    known: bool,
    told: Option<Instant>,
    /// Whether it was told of what lasts now.
    open: bool,
    lost: usize,
}

impl Exporter {
    fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        static CRYPTOGRAPHY: Once = Once::new();
        CRYPTOGRAPHY.call_once(|| {
            // Whoever has chosen another before has one that is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // It would be shown the headers.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // A collector is near; what goes through a proxy would have to be said.
            .no_proxy();
        if endpoint.is_plain() {
            // Without TLS there is no need for certificates, which may be missing in a small image.
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
            trouble: Mutex::default(),
        })
    }

    fn tell(&self, result: OTelSdkResult, spans: usize) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) if trouble.open || !trouble.known => {
                trouble.known = true;
                trouble.open = false;
                let lost = std::mem::take(&mut trouble.lost);
                info!(lost, "the collector takes spans");
            }
            Ok(()) => {}
            Err(error) => {
                trouble.lost += spans;
                if trouble.told.is_none_or(|told| told.elapsed() >= TELL) {
                    trouble.told = Some(Instant::now());
                    trouble.open = true;
                    // It may hold what the collector has answered.
                    let error = error.to_string();
                    warn!(lost = trouble.lost, ?error, "the collector takes no spans");
                }
            }
        }
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        // This is called on a thread that does nothing else, and has no runtime.
        let result = self.runtime.block_on(async {
            // A client keeps to this by itself only if it was made by the exporter.
            let sent = tokio::time::timeout(LONGEST, self.otlp.export(batch)).await;
            sent.unwrap_or(Err(OTelSdkError::Timeout(LONGEST)))
        });
        self.tell(result, spans);
        // It has been told, as often as is good.
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
