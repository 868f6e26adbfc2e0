//! Finds messages that the client library cannot read, and rewrites them so that it can.
//!
//! A server passes on the subject, the reply subject and the headers of a message as it got them.
//! async-nats 0.51 ends the connection if they break its rules, and panics at a bare CR in a header.

use std::fmt::Write as _;
use std::io;
use std::str::{self, FromStr as _};

use async_nats::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BytesMut};
use common::subjects::UNREADABLE_HEADER;

/// The longest line of the protocol, in bytes; one line lists all servers of a cluster.
const LONGEST_LINE: usize = 1 << 20;

/// How many bytes of unreadable headers are kept: as Base64 they fit into the headers of a message in a
/// stream.
const KEPT: usize = 40 * 1024;

/// The headers that a server adds at the end when it sends a message from a stream.
const OF_THE_SERVER: [&str; 7] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
    "Nats-UpTo-Sequence",
];

/// Rewrites the bytes that a server sends on one connection.
#[derive(Debug, Default)]
pub(super) struct Rewriter {
    /// How many bytes of the current message are still to be copied.
    body: usize,
    /// How many messages were rewritten since this was last taken.
    pub(super) unreadable: u64,
}

/// The first line of a message.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    subject: &'a [u8],
    subscription: &'a [u8],
    reply: Option<&'a [u8]>,
    /// The length of the headers in bytes; `None` in a message without.
    headers: Option<usize>,
    /// The length of headers and payload together, in bytes.
    total: usize,
}

impl Rewriter {
    /// Moves complete parts from `input` to `output`.
    ///
    /// # Errors
    /// When the input is not the NATS protocol.
    pub(super) fn rewrite(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> io::Result<()> {
        loop {
            if self.body > 0 {
                let part = self.body.min(input.len());
                output.extend_from_slice(&input[..part]);
                input.advance(part);
                self.body -= part;
                if self.body > 0 {
                    return Ok(());
                }
            }
            let Some(end) = memchr::memmem::find(input, b"\r\n") else {
                if input.len() > LONGEST_LINE {
                    return Err(invalid("a line has no end"));
                }
                return Ok(());
            };
            if !input.starts_with(b"MSG ") && !input.starts_with(b"HMSG ") {
                output.extend_from_slice(&input[..end + 2]);
                input.advance(end + 2);
                continue;
            }
            let line =
                Line::read(&input[..end]).ok_or_else(|| invalid("a message without length"))?;
            let headers = line.headers.unwrap_or(0);
            if input.len() < end + 2 + headers {
                input.reserve(end + 2 + headers - input.len());
                return Ok(());
            }
            self.body = line.total - headers + 2;
            let block = &input[end + 2..end + 2 + headers];
            if line.is_readable() && (line.headers.is_none() || is_readable(block)) {
                output.extend_from_slice(&input[..end + 2 + headers]);
            } else {
                self.unreadable += 1;
                line.write_readable(block, output);
            }
            input.advance(end + 2 + headers);
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<'a> Line<'a> {
    /// Parses a line as the server writes it: words with single spaces in between.
    fn read(line: &'a [u8]) -> Option<Self> {
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let number = |word: &[u8]| str::from_utf8(word).ok()?.parse::<usize>().ok();
        let with_headers = words[0] == b"HMSG";
        let (front, lengths) = words[1..]
            .split_at_checked(words.len().checked_sub(if with_headers { 3 } else { 2 })?)?;
        let (headers, total) = match lengths {
            [total] => (None, number(total)?),
            [headers, total] => (Some(number(headers)?), number(total)?),
            _ => return None,
        };
        let (subject, subscription, reply) = match front {
            [subject, subscription] => (*subject, *subscription, None),
            [subject, subscription, reply] => (*subject, *subscription, Some(*reply)),
            _ => return None,
        };
        (headers.unwrap_or(0) <= total).then_some(Self {
            subject,
            subscription,
            reply,
            headers,
            total,
        })
    }

    fn is_readable(&self) -> bool {
        is_word(self.subject) && self.reply.is_none_or(is_word)
    }

    /// Writes the line and its headers in a form that the library can read.
    fn write_readable(&self, headers: &[u8], output: &mut BytesMut) {
        let subject = word(self.subject);
        // A reply to an invalid subject would reach nobody.
        let reply = self.reply.filter(|reply| is_word(reply)).map(word);
        let reply = reply.map_or(String::new(), |reply| format!("{reply} "));
        let subscription = String::from_utf8_lossy(self.subscription);
        let headers = readable(headers);
        let total = headers.len() + self.total - self.headers.unwrap_or(0);
        let line = format!(
            "HMSG {subject} {subscription} {reply}{} {total}\r\n",
            headers.len()
        );
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(headers.as_bytes());
    }
}

/// Whether the client library reads the bytes as one word.
fn is_word(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| !text.is_empty() && !text.contains(breaks_a_word))
}

fn breaks_a_word(character: char) -> bool {
    character.is_whitespace() || character.is_control()
}

/// The bytes as one word, with U+FFFD for each character that a word must not have.
fn word(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(breaks_a_word, "\u{fffd}")
}

/// Whether the client library can read a block of headers.
fn is_readable(headers: &[u8]) -> bool {
    read(headers).is_some()
}

/// Reads a block of headers; `None` if the client library cannot. It follows async-nats 0.51
/// (`Connection::try_read_op`), and a test compares the two.
fn read(block: &[u8]) -> Option<HeaderMap> {
    let mut lines = str::from_utf8(block).ok()?.lines().peekable();
    let version = lines.next()?.strip_prefix("NATS/1.0")?.trim();
    let status = version
        .split_once(' ')
        .map_or(version, |(status, _)| status.trim());
    if !status.is_empty() {
        StatusCode::from_str(status).ok()?;
    }
    let mut headers = HeaderMap::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_str(name).ok()?;
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        headers.append(name, HeaderValue::from_str(value.trim_end()).ok()?);
    }
    Some(headers)
}

/// Reads a block of headers as a message has them on a connection: one that the client library could
/// not read becomes one header, [`UNREADABLE_HEADER`].
#[must_use]
pub fn read_headers(block: &[u8]) -> HeaderMap {
    read(block).unwrap_or_else(|| {
        let mut headers = HeaderMap::new();
        headers.insert(UNREADABLE_HEADER, kept(block));
        headers
    })
}

/// The replacement for unreadable headers: those that the server added, and the whole block as one
/// value.
fn readable(headers: &[u8]) -> String {
    let mut block = "NATS/1.0\r\n".to_owned();
    for name in OF_THE_SERVER {
        if let Some(value) = last(headers, name) {
            let _ = write!(block, "{name}: {value}\r\n");
        }
    }
    let _ = write!(block, "{UNREADABLE_HEADER}: {}\r\n\r\n", kept(headers));
    block
}

/// What is kept of unreadable headers.
fn kept(headers: &[u8]) -> String {
    STANDARD.encode(&headers[..headers.len().min(KEPT)])
}

/// The last value of a header, made readable; the headers of the server are the last ones.
fn last(headers: &[u8], name: &str) -> Option<String> {
    let start = format!("\r\n{name}: ");
    let from = memchr::memmem::rfind(headers, start.as_bytes())? + start.len();
    let value = &headers[from..];
    let value = &value[..memchr::memmem::find(value, b"\r\n")?];
    Some(word(value))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
