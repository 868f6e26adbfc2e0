use std::time::Duration;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The options are wrong, or the server refuses the credentials.
    #[error("{0}")]
    Misconfigured(String),
    /// The server could not be reached in time.
    #[error("NATS at {servers} could not be reached within {within:?}")]
    Unreachable {
        /// The servers, without credentials.
        servers: String,
        /// How long was waited.
        within: Duration,
    },
    /// The program was told to stop while it still waited for NATS.
    #[error("told to stop before NATS was reached")]
    StoppedEarly,
}
