/// The connection to NATS is closed for good: nothing is sent or answered over it any more.
///
/// It is not what happens in an outage, after which there is a connection again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection to NATS is closed for good, start the publisher again")]
pub struct ConnectionClosed;
