//! The metrics of HTTP requests.

use std::fmt;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

/// In seconds: from what a durable submission takes to the longest wait that a client can ask for.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Took {
    method: &'static str,
    route: String,
}

/// The metrics of HTTP requests. A route is a template, and unknown methods are one label, so requests
/// cannot make an unbounded number of series.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<Answered, Counter>,
    durations: Family<Took, Histogram, fn() -> Histogram>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
        }
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        let help = "HTTP requests that were answered.";
        write(to, "jobs_http_requests", help, None, &self.requests)?;
        let help = "Time from the headers of a request to those of its answer.";
        let seconds = Some(&Unit::Seconds);
        write(
            to,
            "jobs_http_request_duration",
            help,
            seconds,
            &self.durations,
        )?;
        let help = "HTTP requests that are being answered.";
        write(
            to,
            "jobs_http_requests_in_flight",
            help,
            None,
            &self.in_flight,
        )?;
        let help = "HTTP connections that are open.";
        write(to, "jobs_http_connections", help, None, &self.connections)
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &dyn EncodeMetric,
) -> fmt::Result {
    // A metric without samples is left out, as in the other services.
    if metric.is_empty() {
        return Ok(());
    }
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

impl Metrics {
    pub(crate) fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = method_label(method);
        let class = match status.as_u16() {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let answered = Answered {
            method,
            route: route.to_owned(),
            status: class,
        };
        self.requests.get_or_create(&answered).inc();
        let took_label = Took {
            method,
            route: route.to_owned(),
        };
        self.durations
            .get_or_create(&took_label)
            .observe(took.as_secs_f64());
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_is_counted_can_be_scraped() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let took = Duration::from_millis(2);
        metrics.count(&Method::GET, "/v1/jobs/{id}", StatusCode::NOT_FOUND, took);
        let strange = Method::from_bytes(b"BREW").unwrap();
        metrics.count(&strange, "other", StatusCode::OK, took);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"jobs_http_requests_total{method="GET",route="/v1/jobs/{id}",status="4xx"} 1"#,
            r#"jobs_http_requests_total{method="other",route="other",status="2xx"} 1"#,
            r#"jobs_http_request_duration_seconds_count{method="GET",route="/v1/jobs/{id}"} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
