use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::handler::{Attempt, Failure, Handler};
use crate::keep::Keep;

/// The JSON of a payload; `None` means `null`.
pub(crate) type Payload<'a> = Option<&'a RawValue>;

/// The JSON of a result; `None` if there is none or it is not wanted.
pub(crate) type Returned = Option<Box<RawValue>>;

/// A call of a handler, to be awaited. One that ended at once costs no allocation.
pub(crate) enum Call<'a> {
    /// `None` once it was polled.
    Ended(Option<Result<Returned, CallError>>),
    Pending(Pin<Box<dyn Future<Output = Result<Returned, CallError>> + Send + 'a>>),
}

/// A handler behind a pointer, without the types of its payload and output.
pub(crate) trait AnyHandler: Send + Sync {
    /// Starts one attempt. Its result is encoded only if it is `wanted`.
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Call<'a>;

    /// See [`Handler::timeout`].
    fn timeout(&self) -> Option<Duration>;

    /// See [`Handler::keep`].
    fn keep(&self) -> Option<Keep> {
        None
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The payload does not fit the handler, which was not called.
    InvalidPayload(String),
    /// The handler failed.
    Failed(Failure),
}

impl<'a> Call<'a> {
    pub(crate) fn ended(result: Result<Returned, CallError>) -> Self {
        Self::Ended(Some(result))
    }

    pub(crate) fn pending(
        future: impl Future<Output = Result<Returned, CallError>> + Send + 'a,
    ) -> Self {
        Self::Pending(Box::pin(future))
    }

    /// A call that makes a result in any case. The result is dropped unless it is `wanted`.
    pub(crate) fn pending_if_wanted(
        wanted: bool,
        future: impl Future<Output = Result<Returned, CallError>> + Send + 'a,
    ) -> Self {
        Self::pending(async move { future.await.map(|result| result.filter(|_| wanted)) })
    }
}

impl Future for Call<'_> {
    type Output = Result<Returned, CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ended(result) => Poll::Ready(
                result
                    .take()
                    .expect("a future is not polled again after it was ready"),
            ),
            Self::Pending(future) => future.as_mut().poll(context),
        }
    }
}

/// A [`Handler`] as an [`AnyHandler`].
pub(crate) struct Typed<H>(pub(crate) H);

impl<H: Handler> AnyHandler for Typed<H> {
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Call<'a> {
        match decoded(payload) {
            Ok(payload) => {
                Call::pending(async move { encoded(self.0.handle(payload, attempt).await, wanted) })
            }
            Err(error) => Call::ended(Err(error)),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.0.timeout()
    }

    fn keep(&self) -> Option<Keep> {
        self.0.keep()
    }
}

/// A function as an [`AnyHandler`].
pub(crate) struct Function<F>(F);

impl Function<()> {
    /// A handler that calls a function with the payload.
    pub(crate) fn boxed<P, O, F, R>(function: F) -> Box<dyn AnyHandler>
    where
        P: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        let call = move |payload: Payload<'_>, wanted: bool| match decoded(payload) {
            Ok(payload) => {
                let output = function(payload);
                Call::pending(async move { encoded(output.await, wanted) })
            }
            Err(error) => Call::ended(Err(error)),
        };
        Box::new(Function(call))
    }
}

impl<F> AnyHandler for Function<F>
where
    F: Fn(Payload<'_>, bool) -> Call<'static> + Send + Sync,
{
    fn call<'a>(&'a self, payload: Payload<'a>, _: Attempt, wanted: bool) -> Call<'a> {
        (self.0)(payload, wanted)
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}

fn decoded<P: DeserializeOwned>(payload: Payload<'_>) -> Result<P, CallError> {
    let text = payload.map_or("null", RawValue::get);
    // Locating a mistake is slow, so only a wrong payload is read again to name the wrong field.
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

fn encoded<O: Serialize>(result: Result<O, Failure>, wanted: bool) -> Result<Returned, CallError> {
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
