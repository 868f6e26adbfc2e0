//! Reading the server's monitoring pages.

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The JSON that the monitoring page at `path`, such as `/varz`, shows.
///
/// One request of HTTP 1.0, whose answer ends with the connection, needs no HTTP library.
pub(crate) async fn get_json(port: u16, path: &str) -> anyhow::Result<Value> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no body")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.contains(" 200 "), "{path} answered {status:?}");
    serde_json::from_str(body).with_context(|| format!("{path} did not answer with JSON"))
}
