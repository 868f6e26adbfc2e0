use std::str::FromStr as _;
use std::sync::LazyLock;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The W3C header with the trace and the span that a message comes from.
pub const TRACEPARENT: &str = "traceparent";

/// The W3C header with data of tracing systems; it goes with [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// The length of a `traceparent` in bytes; later versions may append more.
const LENGTH: usize = 55;

/// The longest `tracestate` that has to be passed on, in bytes.
const LONGEST_STATE: usize = 512;

/// A span of a trace, as it travels from service to service.
///
/// It only comes from valid headers, so it can always be written to a header or an environment variable.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceContext(pub(super) SpanContext);

impl TraceContext {
    /// Reads the headers of a NATS message; `None` if they have no valid context.
    #[must_use]
    pub fn of_nats(headers: Option<&HeaderMap>) -> Option<Self> {
        let headers = headers?;
        let get = |name| headers.get(HeaderName::from_static(name));
        let parent = get(TRACEPARENT)?.as_str();
        Self::read(parent, get(TRACESTATE).map(HeaderValue::as_str))
    }

    /// Reads the values of both headers; `None` if `traceparent` is invalid. An invalid `tracestate` is
    /// ignored.
    #[must_use]
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let (trace, span, flags) = parts(traceparent)?;
        let state = tracestate
            .filter(|text| text.len() <= LONGEST_STATE)
            .filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
            .and_then(|text| TraceState::from_str(text).ok());
        let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
        context.is_valid().then_some(Self(context))
    }

    /// The value of the header `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let context = &self.0;
        let (trace, span) = (context.trace_id(), context.span_id());
        let flags = context.trace_flags() & TraceFlags::SAMPLED;
        format!("00-{trace}-{span}-{flags:02x}")
    }

    /// The value of the header `tracestate`; `None` if there is none.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        let state = self.0.trace_state().header();
        (!state.is_empty()).then_some(state)
    }

    /// Writes both into the headers of a NATS message.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        let mut put = |name, value: String| {
            // It comes from a header or is made of letters and digits, so it always parses.
            if let Ok(value) = value.parse::<HeaderValue>() {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put(TRACEPARENT, self.traceparent());
        if let Some(state) = self.tracestate() {
            put(TRACESTATE, state);
        }
    }

    /// The size of its headers in a message, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let line = |name: &str, value: usize| name.len() + value + ": \r\n".len();
        let state = self.tracestate();
        line(TRACEPARENT, LENGTH) + state.map_or(0, |state| line(TRACESTATE, state.len()))
    }
}

/// The trace in which this process was started, from the variables `TRACEPARENT` and `TRACESTATE`, which
/// a consumer sets for programs; `None` if there is none.
#[must_use]
pub fn inherited() -> Option<&'static TraceContext> {
    static INHERITED: LazyLock<Option<TraceContext>> = LazyLock::new(|| {
        let variable = |name: &str| std::env::var(name.to_uppercase()).ok();
        TraceContext::read(&variable(TRACEPARENT)?, variable(TRACESTATE).as_deref())
    });
    INHERITED.as_ref()
}

fn parts(traceparent: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    // Checked first, so that any other text costs nothing.
    let (known, more) = traceparent.split_at_checked(LENGTH)?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !known.bytes().all(|byte| byte == b'-' || hex(byte)) {
        return None;
    }
    let mut fields = known.split('-');
    let mut field = |length| fields.next().filter(|field| field.len() == length);
    let version = field(2)?;
    let (trace, span, flags) = (field(32)?, field(16)?, field(2)?);
    let good = match version {
        "00" => more.is_empty(),
        "ff" => false,
        _ => more.is_empty() || more.starts_with('-'),
    };
    if !good {
        return None;
    }
    Some((
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_goes_through_the_headers_of_a_message_as_it_came() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, PARENT);
        headers.insert(TRACESTATE, "vendor=value,other=1");
        let context = TraceContext::of_nats(Some(&headers)).unwrap();
        assert_eq!(context.traceparent(), PARENT);
        let mut copy = HeaderMap::new();
        context.put_into(&mut copy);
        assert_eq!(copy, headers);
        assert_eq!(TraceContext::of_nats(None), None);
        assert_eq!(TraceContext::of_nats(Some(&HeaderMap::new())), None);
    }

    #[test]
    fn the_decision_not_to_record_is_kept_and_a_later_version_is_read_as_far_as_it_is_known() {
        let not = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(TraceContext::read(not, None).unwrap().traceparent(), not);
        let later = PARENT.replacen("00", "01", 1) + "-more";
        let read = TraceContext::read(&later, None).unwrap();
        assert_eq!(read.traceparent(), PARENT);
    }

    #[test]
    fn invalid_contexts_are_ignored() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\u{e9}",
            &"\u{1f980}".repeat(100),
        ] {
            assert_eq!(TraceContext::read(text, None), None, "{text:?}");
        }
        let long = format!("a={}", "b".repeat(600));
        for state in ["", "no pair", "a=b\0c", "a=b\r\nX: y", &long] {
            let context = TraceContext::read(PARENT, Some(state)).unwrap();
            assert_eq!(context.tracestate(), None, "{state:?}");
            assert_eq!(context.traceparent(), PARENT);
        }
    }
}
