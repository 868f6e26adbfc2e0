use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;

use common::{Job, JobKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::any_handler::{AnyHandler, Function, Typed};
use crate::handler::{Failure, Handler};

/// The handlers of a consumer, by the kind of jobs that they run.
#[derive(Default)]
pub struct Registry {
    handlers: BTreeMap<JobKind, Box<dyn AnyHandler>>,
    /// Invalid and duplicate kinds; reported when the consumer starts.
    mistakes: Vec<String>,
}

impl Registry {
    /// A registry with no handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry with the built-in handlers: `echo`, `sleep`, `fail` and `sha256`.
    #[must_use]
    pub fn built_in() -> Self {
        crate::handlers::built_in()
    }

    /// Adds a handler.
    ///
    /// An invalid kind, or one with a handler already, is an error when the consumer starts.
    #[must_use]
    pub fn with<H: Handler>(self, handler: H) -> Self {
        self.with_any(H::Job::KIND, Box::new(Typed(handler)))
    }

    /// Adds a function as a handler. It has no time-out of its own.
    ///
    /// An invalid kind, or one with a handler already, is an error when the consumer starts.
    #[must_use]
    pub fn with_fn<P, O, F, R>(self, kind: &str, function: F) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        self.with_any(kind, Function::boxed(function))
    }

    /// Adds a function as the handler of a type of jobs. It has no time-out of its own.
    ///
    /// An invalid kind, or one with a handler already, is an error when the consumer starts.
    ///
    /// ```
    /// use consumer::{Job, Registry};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Greet {
    ///     name: String,
    /// }
    ///
    /// impl Job for Greet {
    ///     const KIND: &'static str = "greet";
    ///     type Output = String;
    /// }
    ///
    /// let handlers = Registry::new()
    ///     .with_job(async |greet: Greet| Ok(format!("hello {}", greet.name)));
    /// # let _ = handlers;
    /// ```
    #[must_use]
    pub fn with_job<J, F, R>(self, function: F) -> Self
    where
        J: Job,
        F: Fn(J) -> R + Send + Sync + 'static,
        R: Future<Output = Result<J::Output, Failure>> + Send + 'static,
    {
        self.with_any(J::KIND, Function::boxed(function))
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

    /// The kinds that have a handler.
    #[cfg(feature = "testing")]
    pub(crate) fn kinds(&self) -> Vec<JobKind> {
        self.handlers.keys().cloned().collect()
    }

    /// The handlers by kind; an error lists all mistakes.
    pub(crate) fn into_handlers(self) -> Result<BTreeMap<JobKind, Box<dyn AnyHandler>>, String> {
        if self.mistakes.is_empty() {
            Ok(self.handlers)
        } else {
            Err(self.mistakes.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::JobId;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;
    use crate::any_handler::{CallError, Returned};
    use crate::handler::Attempt;

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
