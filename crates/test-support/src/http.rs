//! One request of HTTP 1.0, whose answer ends with the connection, needs no HTTP library.

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, ToSocketAddrs};

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// Asks a server for a page by a method such as `GET`.
///
/// # Errors
/// When there is no server, or what it answers is no HTTP.
pub async fn http(
    method: &str,
    address: impl ToSocketAddrs,
    path: &str,
) -> anyhow::Result<HttpAnswer> {
    let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    exchange(address, path, &request).await
}

/// Sends JSON to a server by POST.
///
/// # Errors
/// When there is no server, or what it answers is no HTTP.
pub async fn http_post(
    address: impl ToSocketAddrs,
    path: &str,
    json: &str,
) -> anyhow::Result<HttpAnswer> {
    let length = json.len();
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{json}"
    );
    exchange(address, path, &request).await
}

async fn exchange(
    address: impl ToSocketAddrs,
    path: &str,
    request: &str,
) -> anyhow::Result<HttpAnswer> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no body")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(HttpAnswer {
        status: status.with_context(|| format!("{path} answered {head:?}"))?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}
