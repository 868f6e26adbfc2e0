//! Reading the server's monitoring pages.

use anyhow::Context as _;
use serde_json::Value;

use crate::http::http;

/// The JSON that the monitoring page at `path`, such as `/varz`, shows.
pub(crate) async fn get_json(port: u16, path: &str) -> anyhow::Result<Value> {
    let answer = http("GET", ("127.0.0.1", port), path).await?;
    anyhow::ensure!(
        answer.status == 200,
        "{path} answered with {}",
        answer.status
    );
    serde_json::from_str(&answer.body).with_context(|| format!("{path} did not answer with JSON"))
}
