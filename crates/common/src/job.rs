use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of job as a Rust type, for the program that submits it and the consumer that runs it.
///
/// The value itself is the payload. Because both sides use the same type, they cannot disagree about
/// the kind, the payload or the result.
///
/// ```
/// use common::Job;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendMail {
///     to: String,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct MailId(String);
///
/// impl Job for SendMail {
///     const KIND: &'static str = "mail.send";
///     type Output = MailId;
/// }
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The kind: tokens of `A-Z a-z 0-9 _ -` joined by single dots.
    const KIND: &'static str;

    /// What the handler returns.
    type Output: Serialize + DeserializeOwned + Send + 'static;
}
