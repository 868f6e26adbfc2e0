use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;

/// A message as a server sends it.
#[derive(Clone, Debug)]
struct Frame {
    subject: Vec<u8>,
    reply: Option<Vec<u8>>,
    headers: Option<Vec<u8>>,
    payload: Vec<u8>,
}

impl Frame {
    fn with_headers(headers: &[u8]) -> Self {
        Self {
            subject: b"jobs.create".to_vec(),
            reply: Some(b"_INBOX.a.b".to_vec()),
            headers: Some(headers.to_vec()),
            payload: b"{\"kind\":\"echo\"}".to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut line = if self.headers.is_some() {
            b"HMSG ".to_vec()
        } else {
            b"MSG ".to_vec()
        };
        line.extend_from_slice(&self.subject);
        line.extend_from_slice(b" 1 ");
        if let Some(reply) = &self.reply {
            line.extend_from_slice(reply);
            line.push(b' ');
        }
        let headers = self.headers.as_deref().unwrap_or_default();
        if self.headers.is_some() {
            line.extend_from_slice(format!("{} ", headers.len()).as_bytes());
        }
        let total = headers.len() + self.payload.len();
        line.extend_from_slice(format!("{total}\r\n").as_bytes());
        line.extend_from_slice(headers);
        line.extend_from_slice(&self.payload);
        line.extend_from_slice(b"\r\n");
        line
    }
}

/// What comes out of the filter, and how much of it was written anew.
fn filtered(bytes: &[u8], chunk: usize) -> (Vec<u8>, u64) {
    let mut rewriter = Rewriter::default();
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    for chunk in bytes.chunks(chunk) {
        input.extend_from_slice(chunk);
        rewriter.rewrite(&mut input, &mut output).unwrap();
    }
    assert!(input.is_empty(), "something is kept back: {input:?}");
    (output.to_vec(), rewriter.unreadable)
}

/// What the client library makes of bytes that a server sends it: the payloads of the messages until
/// the connection is lost.
async fn read_by_the_library(bytes: Vec<u8>) -> Vec<Bytes> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // Only one connection: a second one would mean that the first was lost.
        drop(listener);
        let mut stream = BufReader::new(stream);
        let greeting =
            r#"INFO {"server_id":"a","version":"2.15.1","max_payload":1048576,"headers":true}"#;
        stream
            .write_all(format!("{greeting}\r\n").as_bytes())
            .await
            .unwrap();
        let mut line = String::new();
        while !line.starts_with("SUB") {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0);
            if line.starts_with("PING") {
                stream.write_all(b"PONG\r\n").await.unwrap();
            }
        }
        stream.write_all(&bytes).await.unwrap();
        // Until the client goes.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let options = async_nats::ConnectOptions::new().max_reconnects(1);
    let client = options.connect(address.to_string()).await.unwrap();
    let mut messages = client.subscribe("jobs.create").await.unwrap();
    let mut payloads = Vec::new();
    while let Some(message) = messages.next().await {
        let last = message.payload == "the end";
        payloads.push(message.payload);
        if last {
            break;
        }
    }
    drop(messages);
    drop(client);
    server.await.unwrap();
    payloads
}

/// A message by which it is seen that the library has read everything before it.
fn end() -> Frame {
    Frame {
        subject: b"jobs.create".to_vec(),
        reply: None,
        headers: None,
        payload: b"the end".to_vec(),
    }
}

const UNREADABLE: [&[u8]; 14] = [
    b"NATS/1.0\r\ntraceparent: a\r b\r\n\r\n",
    b"NATS/1.0\r\nA B: x\r\n\r\n",
    b"NATS/1.0\r\nno-colon\r\n\r\n",
    b"NATS/1.0\r\na: \xff\xfe\r\n\r\n",
    b"NATS/2.0\r\na: b\r\n\r\n",
    b"NATS/1.0 abc\r\na: b\r\n\r\n",
    b"nats/1.0\r\na: b\r\n\r\n",
    b"\r\n\r\n",
    b"",
    b"garbage",
    b"NATS/1.0\r\n: no name? \xc3\r\n\r\n",
    b"NATS/1.0\r\n folded first\r\n\r\n",
    b"NATS/1.0\r\na\x00b\r\n\r\n",
    b"NATS/1.0\r\n\xc3\xa4: umlaut\r\n\r\n",
];

const READABLE: [&[u8]; 8] = [
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\na: b\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 404 Not Found\r\na: b\r\n\r\n",
    b"NATS/1.0\r\na: folded\r\n  further\r\n\r\n",
    b"NATS/1.0\r\na:b\r\na: c\r\na:\r\n\r\n",
    b"NATS/1.0\r\na: b",
    b"NATS/1.0\r\na: \xc3\xa4\xe2\x82\xac\r\n\r\n",
];

#[tokio::test]
async fn each_message_that_would_end_the_connection_is_written_anew_and_no_other() {
    for (headers, readable) in READABLE
        .iter()
        .map(|headers| (headers, true))
        .chain(UNREADABLE.iter().map(|headers| (headers, false)))
    {
        let frame = Frame::with_headers(headers);
        let text = String::from_utf8_lossy(headers).into_owned();
        let bytes = [frame.bytes(), end().bytes()].concat();
        let expected = if readable { 2 } else { 0 };
        let read = read_by_the_library(bytes.clone()).await;
        assert_eq!(read.len(), expected, "without the filter: {text:?}");
        let (bytes_after, rewritten) = filtered(&bytes, usize::MAX);
        assert_eq!(rewritten, u64::from(!readable), "{text:?}");
        if readable {
            assert_eq!(bytes_after, bytes, "{text:?}");
        }
        let read = read_by_the_library(bytes_after).await;
        assert_eq!(read.len(), 2, "behind the filter: {text:?}");
        assert_eq!(read[0], frame.payload);
    }
}

#[tokio::test]
async fn a_subject_or_reply_that_is_no_word_for_the_library_is_written_anew() {
    for bad in [
        &b"a\xff"[..],
        b"a\xc2\xa0b",
        b"a\xe2\x80\x832",
        b"a\x0bb",
        b"a\xc2\x85",
        b"a\rb",
    ] {
        for headers in [None, Some(b"NATS/1.0\r\na: b\r\n\r\n".to_vec())] {
            let subject = [b"jobs.create.", bad].concat();
            let frames = [
                Frame {
                    subject,
                    headers: headers.clone(),
                    ..end()
                },
                Frame {
                    reply: Some(bad.to_vec()),
                    headers: headers.clone(),
                    ..end()
                },
            ];
            for mut frame in frames {
                frame.payload = b"first".to_vec();
                let bytes = [frame.bytes(), end().bytes()].concat();
                let (bytes, rewritten) = filtered(&bytes, usize::MAX);
                assert_eq!(rewritten, 1, "{frame:?}");
                assert_eq!(read_by_the_library(bytes).await.len(), 2, "{frame:?}");
            }
        }
    }
}

#[test]
fn headers_added_by_a_stream_are_kept_and_forged_ones_are_not() {
    let headers = b"NATS/1.0\r\nNats-Sequence: 7\r\nno-colon\r\nNats-Stream: JOBS\r\nNats-Subject: jobs.durable.\xff\r\n\
        Nats-Sequence: 42\r\nNats-Time-Stamp: 2026-01-31T09:30:00Z\r\nNats-Num-Pending: 3\r\n\r\n";
    let (bytes, _) = filtered(&Frame::with_headers(headers).bytes(), usize::MAX);
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("Nats-Sequence: ").count(), 1, "{text}");
    for line in [
        "Nats-Sequence: 42\r\n",
        "Nats-Stream: JOBS\r\n",
        "Nats-Subject: jobs.durable.\u{fffd}\r\n",
        "Nats-Time-Stamp: 2026-01-31T09:30:00Z\r\n",
        "Nats-Num-Pending: 3\r\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let (_, kept) = text.split_once("Jobs-Unreadable-Headers: ").unwrap();
    let kept = STANDARD.decode(kept.split_once("\r\n").unwrap().0).unwrap();
    assert_eq!(kept, headers);
}

#[test]
fn of_headers_that_are_too_long_the_beginning_is_kept() {
    let headers = [
        b"NATS/1.0\r\nno-colon".to_vec(),
        vec![b'x'; 100_000],
        b"\r\n\r\n".to_vec(),
    ]
    .concat();
    let (bytes, rewritten) = filtered(&Frame::with_headers(&headers).bytes(), 1000);
    assert_eq!(rewritten, 1);
    assert!(bytes.len() < 60_000, "{}", bytes.len());
}

fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[A-Za-z-]{1,8}: ?[ -~]{0,20}".prop_map(String::into_bytes),
        "[ -~\t\r\n]{0,12}".prop_map(String::into_bytes),
        "\\PC{0,6}:\\PC{0,6}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..12),
        "Nats-[A-Z][a-z]{0,8}: [ -~]{0,9}".prop_map(String::into_bytes),
    ];
    let first = prop_oneof![
        8 => Just(b"NATS/1.0".to_vec()),
        1 => "NATS/1.0 [0-9a-z ]{0,8}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..10),
    ];
    let separator =
        prop_oneof![8 => Just(&b"\r\n"[..]), 1 => Just(&b"\n"[..]), 1 => Just(&b"\r"[..])];
    let rest = proptest::collection::vec((separator, line), 0..5);
    (first, rest, any::<bool>()).prop_map(|(mut block, rest, ended)| {
        for (separator, line) in rest {
            block.extend_from_slice(separator);
            block.extend_from_slice(&line);
        }
        if ended {
            block.extend_from_slice(b"\r\n\r\n");
        }
        block
    })
}

/// The filter goes the way of the library: behind it no headers end a connection, and it touches none
/// with which the library can live.
#[test]
fn whatever_the_headers_are_the_library_reads_all_messages_behind_the_filter() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let blocks = proptest::collection::vec(header_bytes(), 1..40);
    runner
        .run(&(blocks, 1_usize..4000), |(blocks, chunk)| {
            let frames: VecDeque<_> = blocks
                .iter()
                .map(|block| Frame::with_headers(block))
                .collect();
            let mut bytes: Vec<_> = frames.iter().flat_map(Frame::bytes).collect();
            bytes.extend(end().bytes());
            let (bytes, _) = filtered(&bytes, chunk);
            let read = runtime.block_on(read_by_the_library(bytes));
            prop_assert_eq!(read.len(), frames.len() + 1);
            // One that is passed on as it is has to be readable by itself, and the first one that is not
            // ends the connection of the library without the filter.
            let readable = blocks.iter().take_while(|block| is_readable(block)).count();
            let bytes: Vec<_> = frames
                .iter()
                .flat_map(Frame::bytes)
                .chain(end().bytes())
                .collect();
            let read = runtime.block_on(read_by_the_library(bytes));
            let expected = if readable == frames.len() {
                readable + 1
            } else {
                readable
            };
            prop_assert_eq!(read.len(), expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_is_no_protocol_of_nats_is_an_error_and_does_not_fill_the_memory() {
    for bytes in [
        &b"MSG a\r\n"[..],
        b"MSG a 1 x\r\n",
        b"HMSG a 1 9 5\r\n",
        b"HMSG a 1 b c 2 3\r\n",
    ] {
        let (mut input, mut output) = (BytesMut::from(bytes), BytesMut::new());
        let rewritten = Rewriter::default().rewrite(&mut input, &mut output);
        assert!(rewritten.is_err(), "{bytes:?}");
    }
    let mut input = BytesMut::from(&vec![b'x'; LONGEST_LINE + 1][..]);
    assert!(
        Rewriter::default()
            .rewrite(&mut input, &mut BytesMut::new())
            .is_err()
    );
}
