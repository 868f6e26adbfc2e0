//! What a backup holds is there after a restoration, on a server that never saw it before.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use async_nats::{HeaderMap, Request};
use client::backup::{self, MANIFEST, Progress};
use client::{NatsClient, RunNow, run_now};
use common::{JobId, JobState, Timestamp, subjects};
use rand::distr::{Alphanumeric, SampleString as _};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::fixture::stop;
use crate::lane::{LOOK_UP, Lane};

/// More than the server sends ahead of what is acknowledged, in messages of 100 kB that cannot be compressed.
const MORE_THAN_A_WINDOW: usize = 120;

/// What a command came to.
struct Told {
    code: i32,
    out: String,
    err: String,
}

/// Runs `jobs` as a user of a server.
async fn jobs(server: &NatsServer, user: &str, args: &[&str]) -> Told {
    let command = Service::named("jobs").envs(server.env_for(user));
    let mut command = command.args(args).start();
    let code = command.wait().await.code().unwrap();
    Told {
        code,
        out: command.stdout().join("\n"),
        err: command.stderr().join("\n"),
    }
}

async fn succeeds(server: &NatsServer, user: &str, args: &[&str]) -> Value {
    let told = jobs(server, user, &[&["--json"], args].concat()).await;
    assert_eq!(told.code, 0, "{}", told.err);
    serde_json::from_str(&told.out).unwrap()
}

/// A new server onto which a backup was restored, without consumers.
async fn restored(folder: &Path) -> (Lane, Value) {
    let server = NatsServer::start().await;
    let folder = folder.to_str().unwrap();
    let told = succeeds(&server, "restore", &["restore", folder]).await;
    (Lane::on(server).await, told)
}

fn folder(lane: &Lane) -> PathBuf {
    lane.file("backup")
}

/// Makes a backup in which something happens as soon as a part of this file has arrived, and before the server sends
/// more than it may.
async fn backup_with(
    lane: &Lane,
    file: &'static str,
    happens: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let client = NatsClient::from(lane.operator.clone());
    let folder = folder(lane);
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (happened, goes_on) = mpsc::channel();
    // The program waits on its thread, as it does for a slow disk.
    let taking = tokio::task::spawn_blocking(move || {
        let waited = std::sync::Mutex::new(Some(goes_on));
        let show = move |progress: Progress| {
            if progress.file == file
                && let Some(goes_on) = waited.lock().unwrap().take()
            {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
            }
        };
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(backup::take(&client, &folder, &show))
    });
    begins.recv().await.expect("the file is written");
    happens.await;
    happened.send(()).unwrap();
    taking.await.unwrap().map(|_| ())
}

/// Stores enough messages of jobs that are due in years, or records of jobs that have ended, to fill a snapshot.
async fn fill(lane: &Lane, stream: &str) {
    for _ in 0..MORE_THAN_A_WINDOW {
        let id = JobId::generate();
        let text = Alphanumeric.sample_string(&mut rand::rng(), 100_000);
        let mut headers = HeaderMap::new();
        let (subject, payload) = if stream == "JOBS_LATER" {
            headers.insert("Nats-Schedule", "@at 2100-01-01T00:00:00Z");
            headers.insert(
                "Nats-Schedule-Target",
                format!("jobs.due.{id}.normal.2.filler"),
            );
            (
                subjects::later(id),
                json!({"id": id, "kind": "filler", "payload": text}),
            )
        } else {
            let record = json!({
                "id": id, "kind": "filler", "state": "succeeded", "at": Timestamp::now(), "run": 1, "attempt": 1,
                "result": text,
            });
            (subjects::state(id), record)
        };
        store(lane, subject, headers, payload).await;
    }
}

/// Stores what only a consumer may.
async fn store(lane: &Lane, subject: String, headers: HeaderMap, payload: Value) {
    let request = Request::new().headers(headers);
    let request = request.payload(payload.to_string().into());
    let answer = lane.admin.send_request(subject, request).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn each_job_of_before_a_backup_under_load_ends_once_on_the_server_that_it_is_restored_to() {
    let lane = Lane::start().await;
    let consumers = [
        lane.consumer("one", &[]).await,
        lane.consumer("two", &[]).await,
    ];
    let note = || json!({"kind": "note"});
    let ended = lane.submit_all((0..100).map(|_| note())).await;
    lane.all_end(&ended, DEADLINE).await;
    let mut dead = Vec::new();
    for _ in 0..3 {
        dead.push(lane.submit(json!({"kind": "refuse"})).await);
    }
    for id in &dead {
        lane.becomes(*id, JobState::Dead).await;
    }
    let run_at = Timestamp::now().after(Duration::from_hours(1));
    let later = lane.submit(json!({"kind": "note", "run_at": run_at})).await;
    lane.becomes(later, JobState::Scheduled).await;
    let backoff = json!({"initial": "1s", "factor": 1, "max": "1s"});
    let flaky = (0..100).map(|_| json!({"kind": "flaky", "backoff": backoff}));
    let busy = lane
        .submit_all(flaky.chain((0..3000).map(|_| note())))
        .await;
    let mut ended_before = ended.clone();
    for batch in [&busy[..], &dead].concat().chunks(LOOK_UP) {
        let records = lane.look_up(batch).await.expect("the server answers");
        let final_ones = records
            .into_iter()
            .filter(|(_, record)| record.state.is_final());
        ended_before.extend(final_ones.map(|(id, _)| id));
    }

    let folder = folder(&lane);
    let path = folder.to_str().unwrap();
    let arguments = ["backup", path];
    let backup = succeeds(&lane.fixture.server, "operator", &arguments);
    let load = async {
        let mut during = Vec::new();
        for _ in 0..20 {
            during.extend(lane.submit_all((0..20).map(|_| note())).await);
        }
        during
    };
    let (told, during) = tokio::join!(backup, load);
    assert!(
        told["messages"]["JOBS_STATE"].as_u64().unwrap() >= 100,
        "{told}"
    );
    drop(consumers);

    let (lane, told) = restored(&folder).await;
    println!(
        "restored {told}, {} jobs had ended before",
        ended_before.len()
    );
    let _one = lane.consumer("one", &[]).await;
    let all: Vec<_> = [&ended[..], &dead, &busy].concat();
    let records = lane.all_end(&all, 4 * DEADLINE).await;
    for (id, record) in &records {
        let wanted = if dead.contains(id) {
            JobState::Dead
        } else {
            JobState::Succeeded
        };
        assert_eq!(record.state, wanted, "{record:?}");
    }
    for id in &dead {
        assert!(lane.dead_letter(*id, "refuse").await.is_some(), "{id}");
    }
    let operator = NatsClient::from(lane.operator.clone());
    assert_eq!(run_now(&operator, later).await.unwrap(), RunNow::Done);
    lane.becomes(later, JobState::Succeeded).await;
    lane.queue_empties().await;
    let ledger = lane.ledger();
    for id in &ended_before {
        assert!(ledger.of(*id).is_empty(), "{id} had ended, and ran again");
    }
    assert_eq!(ledger.of(later).len(), 1);
    // Of those that were submitted meanwhile, some are in it. None of them waits for ever.
    for id in during {
        if let Some(record) = lane.record(id).await {
            assert_eq!(record.state, JobState::Succeeded, "{record:?}");
        }
    }
    // Its id is known.
    let again = lane.submit_as(ended[0], note()).await;
    again.unwrap();
    lane.queue_empties().await;
    assert!(lane.ledger().of(ended[0]).is_empty());
}

#[tokio::test]
async fn a_job_that_becomes_due_while_its_stream_is_copied_is_not_lost() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("one", &[]).await;
    fill(&lane, "JOBS_LATER").await;
    stop(&mut consumer).await;
    let job = JobId::generate();
    let mut headers = HeaderMap::new();
    // Long enough for what is copied before; the server waits five seconds for an acknowledgement.
    let run_at = Timestamp::now().shifted(3000);
    headers.insert("Nats-Schedule", format!("@at {run_at}"));
    headers.insert(
        "Nats-Schedule-Target",
        format!("jobs.due.{job}.normal.1.note"),
    );
    let payload = json!({"id": job, "kind": "note", "run_at": run_at});
    store(&lane, subjects::later(job), headers, payload).await;

    let due = format!("jobs.due.{job}.");
    let becomes_due = async {
        let waits = lane.count("JOBS_LATER", &subjects::later(job)).await;
        assert_eq!(waits, 1, "the time of the job came too early for this test");
        eventually(DEADLINE, "the time of the job", async || {
            (lane.count("JOBS_LATER", &format!("{due}>")).await == 1).then_some(())
        })
        .await;
    };
    backup_with(&lane, "JOBS_LATER.snapshot", becomes_due)
        .await
        .unwrap();
    let folder = folder(&lane);
    // It is in the copy because of what was read after the snapshot.
    let tail = fs::read_to_string(folder.join("JOBS_LATER.ndjson")).unwrap();
    assert!(tail.contains(&due), "{tail}");

    let (lane, _) = restored(&folder).await;
    let _one = lane.consumer("one", &[]).await;
    lane.becomes(job, JobState::Succeeded).await;
    assert_eq!(lane.ledger().of(job).len(), 1);
}

#[tokio::test]
async fn what_is_replaced_while_its_stream_is_copied_is_not_lost() {
    let lane = Lane::start().await;
    let _one = lane.consumer("one", &[]).await;
    let server = &lane.fixture.server;
    let pause = ["pause", "mail.send", "--reason", "first"];
    assert_eq!(jobs(server, "operator", &pause).await.code, 0);
    // Behind these, so the server has not read it yet when it is replaced.
    fill(&lane, "JOBS_STATE").await;
    let set = [
        "schedules",
        "set",
        "nightly",
        "--kind",
        "note",
        "--cron",
        "0 3 * * *",
    ];
    assert_eq!(jobs(server, "operator", &set).await.code, 0);
    let ended = lane.submit(json!({"kind": "note"})).await;

    let change = async {
        let pause = ["pause", "mail.send", "--reason", "second"];
        assert_eq!(jobs(server, "operator", &pause).await.code, 0);
        let pause = ["schedules", "pause", "nightly"];
        assert_eq!(jobs(server, "operator", &pause).await.code, 0);
    };
    lane.becomes(ended, JobState::Succeeded).await;
    backup_with(&lane, "JOBS_STATE.snapshot", change)
        .await
        .unwrap();

    let (lane, _) = restored(&folder(&lane)).await;
    let server = &lane.fixture.server;
    let kinds = jobs(server, "operator", &["kinds"]).await.out;
    assert!(
        kinds.contains("mail.send") && kinds.contains("second"),
        "{kinds}"
    );
    let schedule = succeeds(server, "operator", &["schedules", "show", "nightly"]).await;
    assert_eq!(schedule["schedule"]["paused"], true, "{schedule}");
    assert!(lane.record(ended).await.is_some());
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_during_a_backup_is_put_back_unless_its_job_has_ended() {
    let lane = Lane::start().await;
    let mut one = lane.consumer("one", &[]).await;
    let mut dead = Vec::new();
    for kind in ["refuse", "refuse", "fail"] {
        let id = lane
            .submit(json!({"kind": kind, "payload": {"permanent": true}}))
            .await;
        lane.becomes(id, JobState::Dead).await;
        dead.push(id);
    }
    let [lost, untouched, ends] = dead[..] else {
        panic!("three jobs")
    };
    let server = &lane.fixture.server;
    let mut during = None;
    let change = async {
        // The queue is copied already, and the records are not.
        let payload = json!({"permanent": true, "message": "second"}).to_string();
        let replay = ["dead", "replay", &ends.to_string(), "--payload", &payload];
        assert_eq!(jobs(server, "operator", &replay).await.code, 0);
        lane.record_that(ends, DEADLINE, "dead again", |record| {
            record.run == 2 && record.state == JobState::Dead
        })
        .await;
        lane.hold(1);
        let job = lane.submit(json!({"kind": "held"})).await;
        lane.becomes(job, JobState::Running).await;
        during = Some(job);
        one.kill().await;
        let replay = ["dead", "replay", &lost.to_string()];
        assert_eq!(jobs(server, "operator", &replay).await.code, 0);
        assert_eq!(lane.record(lost).await.unwrap().state, JobState::Queued);
    };
    backup_with(&lane, "JOBS_ADVISORIES.snapshot", change)
        .await
        .unwrap();

    let (lane, told) = restored(&folder(&lane)).await;
    assert_eq!(told["dead_letters_put_back"], 1, "{told}");
    assert_eq!(told["records_removed"], 1, "{told}");
    // The job was submitted after the queue was copied: it is unknown, so it can be submitted again.
    assert!(lane.record(during.unwrap()).await.is_none());
    for (id, kind) in [(lost, "refuse"), (untouched, "refuse"), (ends, "fail")] {
        let record = lane.record(id).await.unwrap();
        assert_eq!(record.state, JobState::Dead, "{record:?}");
        assert!(lane.dead_letter(id, kind).await.is_some(), "{id}");
    }
    // It can be replayed as any other.
    let _one = lane.consumer("one", &[]).await;
    let replay = ["dead", "replay", &lost.to_string()];
    assert_eq!(
        jobs(&lane.fixture.server, "operator", &replay).await.code,
        0
    );
    lane.record_that(lost, DEADLINE, "dead again", |record| {
        record.run >= 2 && record.state == JobState::Dead
    })
    .await;
    assert_eq!(lane.ledger().of(lost).len(), 1);
}

#[tokio::test]
async fn streams_that_exist_are_replaced_only_on_request() {
    let lane = Lane::start().await;
    let mut one = lane.consumer("one", &[]).await;
    let known = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(known, JobState::Succeeded).await;
    let folder = folder(&lane);
    let path = folder.to_str().unwrap();
    let server = &lane.fixture.server;
    succeeds(server, "operator", &["backup", path]).await;
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mode = fs::metadata(folder.join(MANIFEST))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = jobs(server, "operator", &["backup", path]).await;
    assert!(
        again.code == 1 && again.err.contains("is not empty"),
        "{}",
        again.err
    );
    let newer = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(newer, JobState::Succeeded).await;
    stop(&mut one).await;

    let refused = jobs(server, "restore", &["restore", path]).await;
    assert_eq!(refused.code, 1);
    let streams = "JOBS, JOBS_LATER, JOBS_STATE, JOBS_ADVISORIES exist on the server";
    assert!(refused.err.contains(streams), "{}", refused.err);
    assert!(refused.err.contains("--replace"), "{}", refused.err);
    let unconfirmed = jobs(server, "restore", &["restore", path, "--replace"]).await;
    assert_eq!(unconfirmed.code, 2, "{}", unconfirmed.err);
    let rehearsed = ["restore", path, "--replace", "--dry-run"];
    let rehearsed = succeeds(server, "restore", &rehearsed).await;
    assert_eq!(
        rehearsed["delete"].as_array().unwrap().len(),
        4,
        "{rehearsed}"
    );
    // Who may only operate cannot.
    let operator = ["restore", path, "--replace", "--yes"];
    let operator = jobs(server, "operator", &operator).await;
    assert_eq!(operator.code, 1);
    assert!(
        operator.err.contains("does not let this user publish"),
        "{}",
        operator.err
    );
    assert!(lane.record(newer).await.is_some());

    let replace = ["restore", path, "--replace", "--yes"];
    succeeds(server, "restore", &replace).await;
    assert!(lane.record(known).await.is_some());
    assert!(lane.record(newer).await.is_none());
    // The restored streams are what this version declares.
    let mut one = lane.consumer("one", &[]).await;
    let next = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(next, JobState::Succeeded).await;
    stop(&mut one).await;
}

#[tokio::test]
async fn a_backup_that_is_damaged_or_was_broken_off_is_refused() {
    let lane = Lane::start().await;
    let mut one = lane.consumer("one", &[]).await;
    let id = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(id, JobState::Succeeded).await;
    stop(&mut one).await;
    let server = &lane.fixture.server;
    let whole = folder(&lane);
    succeeds(server, "operator", &["backup", whole.to_str().unwrap()]).await;
    let empty = NatsServer::start().await;
    let refusal = async |folder: &Path| {
        let told = jobs(&empty, "restore", &["restore", folder.to_str().unwrap()]).await;
        assert_eq!(told.code, 1, "{}", told.out);
        told.err
    };

    let copy = |name: &str| {
        let copy = lane.file(name);
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(&whole).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        copy
    };
    for file in ["JOBS_STATE.snapshot", "JOBS_STATE.ndjson"] {
        let damaged = copy(&format!("damaged-{file}"));
        let mut bytes = fs::read(damaged.join(file)).unwrap();
        if bytes.is_empty() {
            bytes.push(b'\n');
        } else {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        fs::write(damaged.join(file), bytes).unwrap();
        let error = refusal(&damaged).await;
        assert!(
            error.contains(file) && error.contains("is damaged"),
            "{error}"
        );
    }
    let short = copy("short");
    let bytes = fs::read(short.join("JOBS.snapshot")).unwrap();
    fs::write(short.join("JOBS.snapshot"), &bytes[1..]).unwrap();
    let error = refusal(&short).await;
    assert!(error.contains("is damaged: it has"), "{error}");
    let missing = copy("missing");
    fs::remove_file(missing.join("JOBS_LATER.snapshot")).unwrap();
    let error = refusal(&missing).await;
    assert!(
        error.contains("cannot read") && error.contains("JOBS_LATER"),
        "{error}"
    );
    let linked = copy("linked");
    fs::remove_file(linked.join("JOBS.snapshot")).unwrap();
    std::os::unix::fs::symlink(whole.join("JOBS.snapshot"), linked.join("JOBS.snapshot")).unwrap();
    let error = refusal(&linked).await;
    assert!(error.contains("is not a file"), "{error}");
    let odd = copy("odd");
    fs::write(odd.join(MANIFEST), "[]").unwrap();
    let error = refusal(&odd).await;
    assert!(error.contains("is not the manifest of a backup"), "{error}");

    // Killed in the middle: all files may be there, but for the manifest.
    let killed = copy("killed");
    fs::rename(killed.join(MANIFEST), killed.join("manifest.json.part")).unwrap();
    let error = refusal(&killed).await;
    assert!(error.contains("broken off"), "{error}");
    let half = lane.file("half");
    let mut backup = Service::named("jobs").envs(server.env_for("operator"));
    backup = backup.args(["backup", half.to_str().unwrap()]);
    fill(&lane, "JOBS_STATE").await;
    let mut backup = backup.start();
    eventually(DEADLINE, "the first file", async || {
        half.join("JOBS.snapshot").exists().then_some(())
    })
    .await;
    backup.kill().await;
    if !half.join(MANIFEST).exists() {
        let error = refusal(&half).await;
        assert!(error.contains("broken off"), "{error}");
    }

    // Nothing of all that was restored.
    let admin = empty.connect_as("admin").await;
    let streams = admin
        .request("$JS.API.STREAM.NAMES", "".into())
        .await
        .unwrap();
    let streams: Value = serde_json::from_slice(&streams.payload).unwrap();
    assert_eq!(streams["total"], 0, "{streams}");
}
