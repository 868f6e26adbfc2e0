//! Blocks of headers by chance, against a running system.

use std::collections::BTreeMap;

use common::{JobId, JobState};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::fixture::{memory_mb, peak_memory_mb};
use crate::lane::{Lane, succeeded};
use crate::poison::{UNREADABLE, durable_job};
use crate::raw::{RawMessage, RawUser, stored};

/// Pieces from which blocks are made: names, values and ends of lines, good ones and bad ones.
const PIECES: [&[u8]; 40] = [
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"\n\n",
    b"\r\r\n",
    b"\0",
    b":",
    b": ",
    b" ",
    b"\t",
    b" folded\r\n",
    b"\t folded\r\n",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x80\xa8",
    b"\x0b",
    b"\x85",
    b"A",
    b"A: b",
    b"A:b\r\nA: c",
    b"traceparent: 00-1-2-3",
    b"a b: c",
    b"NATS/1.0",
    b"NATS/1.0 503",
    b"Status: 100",
    b"Jobs-Fresh: 1",
    b"Jobs-Attempt: 99999999999999999999",
    b"Jobs-Reason: permanent",
    b"Jobs-Run: -1",
    b"Jobs-Unreadable-Headers: !",
    b"Nats-Msg-Id: 1",
    b"Nats-TTL: 1s",
    b"Nats-Rollup: all",
    b"Nats-Expected-Last-Sequence: x",
    b"Nats-Expected-Stream: NONE",
    b"Nats-Schedule: @every 1s",
    b"Nats-Batch-Id: 1\r\nNats-Batch-Sequence: 1",
    b"Nats-Sequence: 1\r\nNats-Subject: jobs.state.1",
];

/// A block of headers, which may be anything.
pub(crate) fn any_headers(random: &mut StdRng) -> Vec<u8> {
    let mut block = Vec::new();
    if random.random_bool(0.8) {
        block.extend_from_slice(b"NATS/1.0\r\n");
    }
    match random.random_range(0..10) {
        // Bytes alone.
        0 => block.extend((0..random.random_range(0..64)).map(|_| random.random::<u8>())),
        // One that is huge, or many.
        1 => {
            block.extend_from_slice(b"A: ");
            block.resize(random.random_range(1000..60_000), b'x');
        }
        2 => {
            for number in 0..random.random_range(100..2000) {
                block.extend_from_slice(format!("A{}: {number}\r\n", number % 7).as_bytes());
            }
        }
        3 => block.extend_from_slice(UNREADABLE[random.random_range(0..UNREADABLE.len())].1),
        _ => {
            for _ in 0..random.random_range(1..12) {
                block.extend_from_slice(PIECES[random.random_range(0..PIECES.len())]);
                if random.random_bool(0.5) {
                    block.extend_from_slice(b"\r\n");
                }
            }
        }
    }
    if random.random_bool(0.9) {
        block.extend_from_slice(b"\r\n\r\n");
    }
    block
}

/// Commands that are no messages: their lengths are wrong, or there is too much of them.
const NO_MESSAGES: [&[u8]; 7] = [
    b"HPUB jobs.create 100 10\r\n0123456789\r\n",
    b"HPUB jobs.create -1 10\r\n0123456789\r\n",
    b"HPUB jobs.create 5\r\nhello\r\n",
    b"HPUB jobs.durable.a.b.c.d 99999999999999999999 1\r\n",
    b"PUB jobs.create 3\r\nmore than three\r\n",
    b"PUB jobs.create\r\n\r\n",
    b"\xff\xfe\r\n",
];

/// The memory of the server in MB.
fn resident(server: &NatsServer) -> u64 {
    memory_mb(server.id(), "VmRSS:").unwrap()
}

#[tokio::test]
async fn whatever_headers_somebody_sends_good_jobs_succeed_and_garbage_ends() {
    const MESSAGES: usize = 1500;
    let seed = std::env::var("FUZZ_SEED").map_or(20_261, |seed| seed.parse().unwrap());
    println!("FUZZ_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let lane = Lane::start().await;
    let server = &lane.fixture.server;
    let consumers = [lane.consumer("a", &[]).await, lane.consumer("b", &[]).await];
    let memory_before = resident(server);
    let mut user = RawUser::log_in(server, "publisher").await;
    let (mut good, mut sent) = (Vec::new(), BTreeMap::new());
    for number in 0..MESSAGES {
        if number % 10 == 0 {
            good.push(lane.submit(json!({"kind": "echo"})).await);
        }
        let headers = any_headers(&mut random);
        if random.random_bool(0.3) {
            let subject = ["jobs.create", "jobs.create.echo"][random.random_range(0..2)];
            let job = RawMessage {
                subject: subject.to_owned(),
                headers,
                payload: b"{\"kind\":\"echo\"}".to_vec(),
            };
            user.send(&job).await;
        } else {
            let id = JobId::generate();
            let answer = user.send(&durable_job(id, &headers)).await;
            sent.insert(id, (answer, headers));
        }
        if number % 100 == 50 {
            let hostile = RawUser::log_in(server, "publisher").await;
            for bytes in NO_MESSAGES {
                let another = RawUser::log_in(server, "publisher").await;
                another.write(bytes).await;
            }
            hostile.write(&[b'x'; 8192]).await;
        }
    }
    user.settled().await;
    assert!(!user.is_closed(), "{:?}", user.complaints());
    // Some wait for a batch that is never closed, and have no answer; they are not stored.
    let (mut kept, mut refused) = (Vec::new(), 0);
    for (id, (answer, _)) in &sent {
        match user.answer(*answer).map(|answer| stored(&answer)) {
            Some(Ok(_)) => kept.push(*id),
            Some(Err(_)) => refused += 1,
            None => {}
        }
    }
    assert!(kept.len() > 300 && refused > 10, "{} {refused}", kept.len());
    succeeded(&lane.all_end(&good, DEADLINE).await);
    let ended = lane.all_end(&kept, DEADLINE).await;
    let mut states = BTreeMap::new();
    for record in ended.values() {
        assert!(
            matches!(record.state, JobState::Dead | JobState::Succeeded),
            "{record:?}"
        );
        *states.entry(record.state).or_insert(0) += 1;
    }
    println!("{} stored: {states:?}, {refused} refused", kept.len());
    assert!(states[&JobState::Dead] > 50, "{states:?}");
    // Confirmed jobs as well, after all that.
    let jobs = (0..20).map(|_| json!({"kind": "echo"}));
    lane.fixture.bulk(jobs, &[]).all_succeed(DEADLINE).await;
    eventually(DEADLINE, "an empty queue", async || {
        (lane.count("JOBS", "jobs.durable.>").await == 0).then_some(())
    })
    .await;
    for consumer in &consumers {
        // Without the pages of the program itself, which is large where it was not optimised.
        let files = memory_mb(consumer.id(), "RssFile:").unwrap();
        let memory = peak_memory_mb(consumer).unwrap().saturating_sub(files);
        println!("a consumer had {memory} MB of its own");
        assert!(memory < 20, "{memory} MB");
    }
    let grown = resident(server).saturating_sub(memory_before);
    println!("the server has {grown} MB more");
    assert!(grown < 150, "{grown} MB");
}
