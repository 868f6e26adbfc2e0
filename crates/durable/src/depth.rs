use async_nats::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{self, ApiError};
use crate::topology::Stream;

/// How many jobs the lane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Jobs that wait for a consumer or run, and those that ended in the last seconds.
    pub queued: u64,
    /// Jobs that wait for their time, or whose time has come.
    pub later: u64,
}

/// Looks how many jobs the lane holds; `None` where there is no durable lane.
///
/// # Errors
/// When the server does not answer in time.
pub async fn depth(client: &Client) -> anyhow::Result<Option<Depth>> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        messages: u64,
    }
    let mut held = [0; 2];
    for (held, stream) in held.iter_mut().zip([Stream::Jobs, Stream::Later]) {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        match api::ask::<Info>(client, subject, &Value::Null).await {
            Ok(info) => *held = info.state.messages,
            Err(ApiError::NoJetStream(_) | ApiError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    let [queued, later] = held;
    Ok(Some(Depth { queued, later }))
}
