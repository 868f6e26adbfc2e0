//! What receives spans, as a collector of OpenTelemetry does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tokio::net::TcpListener;

/// A span as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty, if it is the first of its trace.
    pub(crate) parent: String,
    pub(crate) failed: bool,
    pub(crate) start: u64,
    pub(crate) end: u64,
    attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute as text; empty if there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    /// The header `authorization` of each batch.
    credentials: Arc<Mutex<Vec<String>>>,
    /// The header `traceparent` of each other request.
    calls: Arc<Mutex<Vec<String>>>,
}

/// Listens on a port of its own.
pub(crate) struct Collector {
    address: SocketAddr,
    received: Received,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Received::default();
        let routes = Router::new()
            .route("/v1/traces", post(take))
            .route("/hook", post(called))
            .with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, received }
    }

    /// For `--otlp-endpoint`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans so far, in the order in which they began.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut spans = self.received.spans.lock().unwrap().clone();
        spans.sort_by_key(|span| span.start);
        spans
    }

    pub(crate) fn credentials(&self) -> Vec<String> {
        self.received.credentials.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.received.calls.lock().unwrap().clone()
    }
}

async fn called(State(received): State<Received>, headers: HeaderMap) -> &'static str {
    received
        .calls
        .lock()
        .unwrap()
        .push(header(&headers, "traceparent"));
    "{}"
}

async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) {
    let credentials = header(&headers, "authorization");
    received.credentials.lock().unwrap().push(credentials);
    assert_eq!(header(&headers, "content-type"), "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = received.spans.lock().unwrap();
    for of_service in request.resource_spans {
        let resource = of_service.resource.unwrap();
        let service = texts(resource.attributes).remove("service.name").unwrap();
        let of_service = of_service.scope_spans.into_iter();
        spans.extend(of_service.flat_map(|scope| scope.spans).map(|span| Span {
            service: service.clone(),
            kind: kind(span.kind),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            failed: span.status.is_some_and(|status| status.code == 2),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            attributes: texts(span.attributes),
        }));
    }
}

fn header(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name);
    value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}

fn kind(number: i32) -> &'static str {
    ["", "internal", "server", "client", "producer", "consumer"][usize::try_from(number).unwrap()]
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |attribute: KeyValue| {
        let value = match attribute.value.unwrap().value.unwrap() {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (attribute.key, value)
    };
    attributes.into_iter().map(text).collect()
}
