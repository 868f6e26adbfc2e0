/// The connection to NATS is closed for good: nothing can be sent or received over it any more.
///
/// An outage is different: the connection comes back after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection to NATS is closed for good, start the publisher again")]
pub(crate) struct ConnectionClosed;
