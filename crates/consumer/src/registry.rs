use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::JobKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::handler::{Attempt, Failure, Handler};

/// Which handler runs which kind.
#[derive(Default)]
pub struct Registry {
    handlers: BTreeMap<JobKind, Box<dyn AnyHandler>>,
    mistakes: Vec<String>,
}

/// A payload as it was written; `None` is `null`.
pub(crate) type Payload<'a> = Option<&'a RawValue>;

/// A result as it will be written; `None` if nobody asked for it.
pub(crate) type Returned = Option<Box<RawValue>>;

/// A call of a handler: a future, unless it ended at once, which then costs no allocation.
pub(crate) enum Running<'a> {
    Ended(Option<Result<Returned, CallError>>),
    Going(Pin<Box<dyn Future<Output = Result<Returned, CallError>> + Send + 'a>>),
}

/// A handler whose types are no longer known.
pub(crate) trait AnyHandler: Send + Sync {
    /// Starts one attempt; the result is only made if it is `wanted`.
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Running<'a>;

    /// See [`Handler::timeout`].
    fn timeout(&self) -> Option<Duration>;
}

/// Why a call gave no result.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The handler does not take this payload, and was not called.
    InvalidPayload(String),
    /// The handler failed.
    Failed(Failure),
}

impl<'a> Running<'a> {
    pub(crate) fn ended(result: Result<Returned, CallError>) -> Self {
        Self::Ended(Some(result))
    }

    pub(crate) fn going(
        future: impl Future<Output = Result<Returned, CallError>> + Send + 'a,
    ) -> Self {
        Self::Going(Box::pin(future))
    }

    /// A call whose result comes by itself; one that is not `wanted` is thrown away.
    pub(crate) fn going_if_wanted(
        wanted: bool,
        future: impl Future<Output = Result<Returned, CallError>> + Send + 'a,
    ) -> Self {
        Self::going(async move { future.await.map(|result| result.filter(|_| wanted)) })
    }
}

impl Future for Running<'_> {
    type Output = Result<Returned, CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ended(result) => {
                Poll::Ready(result.take().expect("a future is not polled after its end"))
            }
            Self::Going(future) => future.as_mut().poll(context),
        }
    }
}

impl Registry {
    /// A registry with no handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry with the handlers that come with the consumer: `echo`, `sleep`, `fail` and
    /// `sha256`.
    #[must_use]
    pub fn built_in() -> Self {
        crate::handlers::built_in()
    }

    /// Adds a handler.
    ///
    /// A kind that is not one, or that has a handler already, is reported when the consumer
    /// starts.
    #[must_use]
    pub fn with<H: Handler>(self, handler: H) -> Self {
        self.with_any(H::KIND, Box::new(Typed(handler)))
    }

    /// Adds a function as a handler, without a limit of its own on how long it runs.
    ///
    /// A kind that is not one, or that has a handler already, is reported when the consumer
    /// starts.
    #[must_use]
    pub fn with_fn<P, O, F, R>(self, kind: &str, function: F) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        let call = move |payload: Payload<'_>, wanted: bool| match read(payload) {
            Ok(payload) => {
                let running = function(payload);
                Running::going(async move { written(running.await, wanted) })
            }
            Err(error) => Running::ended(Err(error)),
        };
        self.with_any(kind, Box::new(Function(call)))
    }

    pub(crate) fn with_any(mut self, kind_text: &str, handler: Box<dyn AnyHandler>) -> Self {
        match kind_text.parse::<JobKind>() {
            Ok(kind) => {
                if let Entry::Vacant(entry) = self.handlers.entry(kind) {
                    entry.insert(handler);
                } else {
                    self.mistakes
                        .push(format!("kind {kind_text:?} has two handlers"));
                }
            }
            Err(error) => self.mistakes.push(error.to_string()),
        }
        self
    }

    /// The handlers by kind, or what is wrong with them.
    pub(crate) fn into_handlers(self) -> Result<BTreeMap<JobKind, Box<dyn AnyHandler>>, String> {
        if self.mistakes.is_empty() {
            Ok(self.handlers)
        } else {
            Err(self.mistakes.join("; "))
        }
    }
}

struct Typed<H>(H);

impl<H: Handler> AnyHandler for Typed<H> {
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Running<'a> {
        match read(payload) {
            Ok(payload) => {
                Running::going(
                    async move { written(self.0.handle(payload, attempt).await, wanted) },
                )
            }
            Err(error) => Running::ended(Err(error)),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.0.timeout()
    }
}

struct Function<F>(F);

impl<F> AnyHandler for Function<F>
where
    F: Fn(Payload<'_>, bool) -> Running<'static> + Send + Sync,
{
    fn call<'a>(&'a self, payload: Payload<'a>, _: Attempt, wanted: bool) -> Running<'a> {
        (self.0)(payload, wanted)
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}

fn read<P: DeserializeOwned>(payload: Payload<'_>) -> Result<P, CallError> {
    let text = payload.map_or("null", RawValue::get);
    // As with whole jobs, only a payload that is wrong pays for naming its wrong part.
    serde_json::from_str(text).map_err(|error| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let located = serde_path_to_error::deserialize::<_, P>(&mut deserializer).err();
        let path = located
            .filter(|located| located.path().iter().len() > 0)
            .map(|located| format!(".{}", located.path()))
            .unwrap_or_default();
        CallError::InvalidPayload(format!("field `payload{path}`: {error}"))
    })
}

fn written<O: Serialize>(result: Result<O, Failure>, wanted: bool) -> Result<Returned, CallError> {
    let output = result.map_err(CallError::Failed)?;
    if !wanted {
        return Ok(None);
    }
    serde_json::value::to_raw_value(&output)
        .map(Some)
        .map_err(|error| {
            let error = anyhow::Error::new(error).context("the result cannot be written as JSON");
            CallError::Failed(Failure::Permanent(error))
        })
}

#[cfg(test)]
mod tests {
    use common::JobId;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Mail {
        to: Vec<String>,
    }

    fn registry() -> Registry {
        Registry::new().with_fn("mail.send", async |mail: Mail| Ok(mail.to.len()))
    }

    async fn call(payload: &str, wanted: bool) -> Result<Returned, CallError> {
        let handlers = registry().into_handlers().unwrap();
        let attempt = Attempt {
            id: JobId::generate(),
            number: 1,
            timeout: Duration::from_secs(1),
            trace: None,
            cancelled: None,
        };
        let payload = RawValue::from_string(payload.to_owned()).unwrap();
        handlers["mail.send"]
            .call(Some(&payload), attempt, wanted)
            .await
    }

    #[tokio::test]
    async fn a_result_is_made_only_when_it_is_wanted() {
        let result = call(r#"{"to":["a","b"]}"#, true).await.unwrap().unwrap();
        assert_eq!(result.get(), "2");
        assert!(call(r#"{"to":["a","b"]}"#, false).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_wrong_part_of_a_payload_is_named() {
        let Err(CallError::InvalidPayload(text)) = call(r#"{"to":["a",2]}"#, true).await else {
            panic!("was taken")
        };
        assert!(
            text.starts_with("field `payload.to[1]`: invalid type"),
            "{text}"
        );
    }

    #[test]
    fn mistakes_in_kinds_are_reported_together() {
        let twice = registry()
            .with_fn("mail.send", async |(): ()| Ok(1))
            .with_fn("a..b", async |(): ()| Ok(1));
        let mistakes = twice.into_handlers().err().unwrap();
        assert!(
            mistakes.contains("kind \"mail.send\" has two handlers"),
            "{mistakes}"
        );
        assert!(mistakes.contains("invalid kind \"a..b\""), "{mistakes}");
    }
}
