use std::fmt::Write as _;

use common::Job;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::handler::{Attempt, Failure, Handler};

/// Computes the SHA-256 of a text. This is an example of work that keeps a thread busy, so it runs
/// on a separate thread.
pub(crate) struct Sha256;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Payload {
    /// The text, hashed as UTF-8.
    text: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Output {
    /// The hash in lower-case hex digits.
    hex: String,
}

impl Job for Payload {
    const KIND: &'static str = "sha256";
    type Output = Output;
}

impl Handler for Sha256 {
    type Job = Payload;

    async fn handle(&self, payload: Payload, _: Attempt) -> Result<Output, Failure> {
        let hash = tokio::task::spawn_blocking(move || sha2::Sha256::digest(payload.text)).await?;
        let mut hex = String::with_capacity(2 * hash.len());
        for byte in hash {
            write!(hex, "{byte:02x}")?;
        }
        Ok(Output { hex })
    }
}
