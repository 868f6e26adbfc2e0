use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::Subject;
use tracing::warn;

/// Decides to which reply subjects this consumer publishes.
///
/// NATS does not check whether a sender may publish to the reply subject that it names. Replies
/// to the subjects of this system or of the server would let anyone who may submit jobs publish
/// there with a consumer's rights.
#[derive(Debug, Default)]
pub(crate) struct ReplyCheck {
    has_warned: AtomicBool,
}

impl ReplyCheck {
    /// The reply subject, if it may be used. A message with any other counts as a plain publish.
    pub(crate) fn allowed(&self, reply: Option<Subject>) -> Option<Subject> {
        let reply = reply?;
        if reply.starts_with("jobs.") || reply.starts_with('$') {
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                warn!(
                    reply = ?reply.as_str(),
                    "a message has a reply subject that is not an inbox: no reply is sent (logged \
                     once only)"
                );
            }
            return None;
        }
        Some(reply)
    }
}
