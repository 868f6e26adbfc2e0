/// A mistake in the configuration that is found after the command line was read. The service exits
/// with 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// Marks an error as a mistake in the configuration.
pub(crate) fn misconfigured(error: &anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(Misconfigured(format!("{error:#}")))
}
