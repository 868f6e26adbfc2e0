use common::{KindPattern, subjects};
use connection::NatsClient;
use jetstream::{Stream, direct_get, jobs_of_kinds, manage};

/// Whether a kind that matches is known: a consumer has served it, a job of it is in a queue, or a dead
/// letter has it.
///
/// # Errors
/// When the server does not answer in time.
pub async fn is_known_kind(client: &NatsClient, kind: &KindPattern) -> anyhow::Result<bool> {
    for (stream, filter) in [
        (Stream::Jobs, jobs_of_kinds(Stream::Jobs, kind)),
        (Stream::Later, jobs_of_kinds(Stream::Later, kind)),
        (Stream::State, subjects::dead_of_kinds(kind)),
    ] {
        let first = direct_get::next(client, stream, &filter, 1).await;
        if manage::existing(first)?.flatten().is_some() {
            return Ok(true);
        }
    }
    for stream in [Stream::Jobs, Stream::Later] {
        let served = manage::consumers_of_kinds(client, stream).await?;
        if served
            .iter()
            .any(|served| kind.matches(served.kind.as_str()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
