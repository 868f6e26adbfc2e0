//! A fleet on the durable lane, somebody who hands it jobs, and all that can be seen of them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Message, Request, StatusCode};
use common::{JobId, JobKind, JobRecord, JobState, Priority, Timestamp, subjects};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::fixture::Fixture;
use crate::ledger::{self, Ledger};

/// How long the server leaves a job with a consumer that gives no sign of life.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(15);

/// A message with this subject is stored already.
pub(crate) const STORED_ALREADY: u64 = 10077;

/// The most messages in an atomic batch.
const BATCH: usize = 1000;

/// The most records that are asked for at a time.
pub(crate) const LOOK_UP: usize = 512;

/// Each record that was stored, by its job.
type Events = Arc<Mutex<BTreeMap<JobId, Vec<JobRecord>>>>;

pub(crate) struct Lane {
    pub(crate) fixture: Fixture,
    pub(crate) operator: Client,
    /// Looks where nobody else may.
    pub(crate) admin: Client,
    events: Events,
    folder: TempDir,
    handlers: String,
}

/// Why JetStream refuses a message.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: u64,
    pub(crate) description: String,
}

impl Lane {
    pub(crate) async fn start() -> Self {
        Self::on(NatsServer::start().await).await
    }

    pub(crate) async fn on(server: NatsServer) -> Self {
        let fixture = Fixture::on(server).await;
        let operator = fixture.server.connect_as("operator").await;
        let admin = fixture.server.connect_as("admin").await;
        let events = listen(&operator).await;
        let folder = tempfile::tempdir().unwrap();
        let handlers = fixture.handlers(&ledger::handlers(folder.path()));
        Self {
            fixture,
            operator,
            admin,
            events,
            folder,
            handlers,
        }
    }

    /// A consumer that takes durable jobs, four at a time unless told otherwise.
    pub(crate) async fn consumer(&self, name: &str, arguments: &[&str]) -> Service {
        let mut all = vec!["--handlers", &self.handlers];
        all.extend(arguments);
        let mut consumer = self.fixture.consumer(name, &all).await;
        takes_durable_jobs(&mut consumer).await;
        consumer
    }

    /// Keeps attempts with this number at jobs of kind `held` from ending.
    pub(crate) fn hold(&self, attempt: u32) {
        fs::write(self.folder.path().join(format!("hold.{attempt}")), "").unwrap();
    }

    /// A file that the test may write.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets them end.
    pub(crate) fn release(&self, attempt: u32) {
        fs::remove_file(self.folder.path().join(format!("hold.{attempt}"))).unwrap();
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::read(self.folder.path())
    }

    /// Waits until a consumer has begun this attempt at a job.
    pub(crate) async fn begun(&self, id: JobId, attempt: u32, deadline: Duration) -> String {
        let what = format!("the beginning of attempt {attempt} at {id}");
        eventually(deadline, &what, async || {
            let ledger = self.ledger();
            let mut runs = ledger.0.into_iter();
            runs.find(|run| run.id == id && run.attempt == attempt)
                .map(|run| run.consumer)
        })
        .await
    }

    /// Waits until so many runs have begun.
    pub(crate) async fn runs(&self, count: usize) -> Ledger {
        eventually(DEADLINE, &format!("{count} runs"), async || {
            let ledger = self.ledger();
            (ledger.0.len() >= count).then_some(ledger)
        })
        .await
    }

    /// Stores a job, which gets an id, and returns that.
    pub(crate) async fn submit(&self, job: Value) -> JobId {
        let id = JobId::generate();
        self.submit_as(id, job).await.unwrap();
        id
    }

    /// Stores a job under an id.
    pub(crate) async fn submit_as(&self, id: JobId, mut job: Value) -> Result<u64, Refused> {
        job["id"] = json!(id);
        let kind: JobKind = job["kind"].as_str().unwrap().parse().unwrap();
        let subject = subjects::durable_job(id, priority_of(&job), 1, &kind);
        self.publish(subject, HeaderMap::new(), job.to_string())
            .await
    }

    /// Stores anything, and returns its sequence.
    pub(crate) async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: impl Into<bytes::Bytes>,
    ) -> Result<u64, Refused> {
        let answer = ask(&self.operator, subject, headers, payload, DEADLINE).await;
        answer.expect("the server answers")
    }

    /// Stores many jobs in atomic batches.
    pub(crate) async fn submit_all(&self, jobs: impl IntoIterator<Item = Value>) -> Vec<JobId> {
        let jobs: Vec<_> = jobs
            .into_iter()
            .map(|job| (JobId::generate(), job))
            .collect();
        for batch in jobs.chunks(BATCH) {
            let stored = store_batch(&self.operator, batch, false, DEADLINE).await;
            stored.expect("the server answers").unwrap();
        }
        jobs.into_iter().map(|(id, _)| id).collect()
    }

    /// The last message of a subject in a stream.
    pub(crate) async fn last(&self, stream: &str, subject: &str) -> Option<Message> {
        let question = json!({"last_by_subj": subject}).to_string();
        let get = format!("$JS.API.DIRECT.GET.{stream}");
        let answer = self.operator.request(get, question.into()).await.ok()?;
        match answer.status {
            None | Some(StatusCode::OK) => Some(answer),
            Some(status) => {
                assert_eq!(status, StatusCode::NOT_FOUND, "{:?}", answer.description);
                None
            }
        }
    }

    pub(crate) async fn record(&self, id: JobId) -> Option<JobRecord> {
        let message = self.last("JOBS_STATE", &subjects::record(id)).await?;
        Some(serde_json::from_slice(&message.payload).unwrap())
    }

    /// Waits for a record that is as wanted.
    pub(crate) async fn record_that(
        &self,
        id: JobId,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&JobRecord) -> bool,
    ) -> JobRecord {
        eventually(deadline, &format!("a record of {id}: {what}"), async || {
            self.record(id).await.filter(&wanted)
        })
        .await
    }

    /// Waits until a job is in this state.
    pub(crate) async fn becomes(&self, id: JobId, state: JobState) -> JobRecord {
        self.record_that(id, DEADLINE, state.as_str(), |record| record.state == state)
            .await
    }

    /// Waits until all these jobs have ended, and checks that each has done so once.
    pub(crate) async fn all_end(
        &self,
        ids: &[JobId],
        deadline: Duration,
    ) -> BTreeMap<JobId, JobRecord> {
        let mut ended = BTreeMap::new();
        let since = Instant::now();
        eventually(deadline, "the end of all jobs", async || {
            let open: Vec<_> = ids
                .iter()
                .copied()
                .filter(|id| !ended.contains_key(id))
                .collect();
            if since.elapsed() + Duration::from_millis(200) > deadline {
                self.tell_of(&open).await;
            }
            for batch in open.chunks(LOOK_UP) {
                let found = self.look_up(batch).await?;
                ended.extend(
                    found
                        .into_iter()
                        .filter(|(_, record)| record.state.is_final()),
                );
            }
            (ended.len() == ids.len()).then_some(())
        })
        .await;
        for id in ids {
            let finals = self.events_of(*id).into_iter();
            let finals: Vec<_> = finals.filter(|record| record.state.is_final()).collect();
            assert!(
                finals.len() <= 1,
                "a job that ended more than once: {finals:?}"
            );
        }
        ended
    }

    /// Prints where some of the jobs are that did not end.
    async fn tell_of(&self, open: &[JobId]) {
        println!("{} jobs did not end", open.len());
        for id in open.iter().take(3) {
            let record = self.record(*id).await;
            println!("{id}: {record:?}, runs {:?}", self.ledger().of(*id));
            for (stream, subject) in [
                ("JOBS", format!("{}.{id}.>", subjects::DURABLE)),
                ("JOBS_LATER", subjects::later(*id)),
                ("JOBS_LATER", format!("{}.{id}.>", subjects::DUE)),
            ] {
                let there = self.last(stream, &subject).await.is_some();
                println!("  {subject}: {}", if there { "there" } else { "gone" });
            }
        }
    }

    /// The records of these jobs; `None` if the server is away.
    pub(crate) async fn look_up(&self, ids: &[JobId]) -> Option<BTreeMap<JobId, JobRecord>> {
        let inbox = self.operator.new_inbox();
        let mut answers = self.operator.subscribe(inbox.clone()).await.unwrap();
        let subjects: Vec<_> = ids.iter().copied().map(subjects::record).collect();
        let question = json!({"multi_last": subjects}).to_string();
        self.operator
            .publish_with_reply("$JS.API.DIRECT.GET.JOBS_STATE", inbox, question.into())
            .await
            .unwrap();
        let mut found = BTreeMap::new();
        let gather = async {
            while let Some(answer) = answers.next().await {
                match answer.status {
                    None | Some(StatusCode::OK) => {
                        let record: JobRecord = serde_json::from_slice(&answer.payload).unwrap();
                        found.insert(record.id, record);
                    }
                    Some(status) => {
                        return matches!(status.as_u16(), 204 | 404);
                    }
                }
            }
            false
        };
        let all = tokio::time::timeout(Duration::from_secs(5), gather).await;
        (all == Ok(true)).then_some(found)
    }

    /// The records that were stored for a job, as far as they were heard of.
    pub(crate) fn events_of(&self, id: JobId) -> Vec<JobRecord> {
        let events = self.events.lock().unwrap();
        events.get(&id).cloned().unwrap_or_default()
    }

    /// How many of the jobs that have begun have ended, as far as the server has stored it.
    pub(crate) async fn stored_ends(&self) -> usize {
        let begun: Vec<_> = self.ledger().jobs().into_keys().collect();
        let mut ends = 0;
        for batch in begun.chunks(LOOK_UP) {
            let found = self.look_up(batch).await.expect("the server answers");
            ends += found
                .values()
                .filter(|record| record.state.is_final())
                .count();
        }
        ends
    }

    /// The states that a job went through.
    pub(crate) fn states_of(&self, id: JobId) -> Vec<JobState> {
        let events = self.events_of(id);
        events.iter().map(|record| record.state).collect()
    }

    /// The dead letter of a job.
    pub(crate) async fn dead_letter(&self, id: JobId, kind: &str) -> Option<Message> {
        let subject = subjects::dead(id, &kind.parse().unwrap());
        self.last("JOBS_STATE", &subject).await
    }

    /// Asks that a job be cancelled.
    pub(crate) async fn cancel(&self, id: JobId) {
        self.publish(subjects::cancel(id), HeaderMap::new(), "")
            .await
            .unwrap();
    }

    /// How many messages a stream holds below a subject.
    pub(crate) async fn count(&self, stream: &str, filter: &str) -> usize {
        let info = self.info(stream, &json!({"subjects_filter": filter})).await;
        info["state"]["subjects"]
            .as_object()
            .map_or(0, serde_json::Map::len)
    }

    /// Waits until no job is in the queue, be it one that runs.
    pub(crate) async fn queue_empties(&self) {
        eventually(DEADLINE, "an empty queue", async || {
            (self.count("JOBS", "jobs.durable.>").await == 0).then_some(())
        })
        .await;
    }

    pub(crate) async fn info(&self, stream: &str, question: &Value) -> Value {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let question = if question.is_null() {
            String::new()
        } else {
            question.to_string()
        };
        let answer = self.admin.request(subject, question.into());
        serde_json::from_slice(&answer.await.unwrap().payload).unwrap()
    }

    /// Prints what became of the jobs, and checks what is true in every test: none is lost, and none
    /// ran more often than its attempts say, but for so many that may have been run twice.
    pub(crate) fn account(
        &self,
        submitted: &[JobId],
        ended: &BTreeMap<JobId, JobRecord>,
        duplicates: RangeInclusive<usize>,
    ) {
        let mut states: BTreeMap<JobState, usize> = BTreeMap::new();
        let mut attempts = 0;
        for record in ended.values() {
            *states.entry(record.state).or_default() += 1;
            attempts += record.attempt as usize;
        }
        let ledger = self.ledger().jobs();
        let runs: usize = submitted.iter().filter_map(|id| ledger.get(id)).sum();
        let twice = runs.saturating_sub(submitted.len());
        println!(
            "submitted {}, ended {states:?}, attempts {attempts}, runs {runs}, runs beyond one a job {twice}",
            submitted.len()
        );
        assert_eq!(ended.len(), submitted.len(), "jobs were lost");
        assert!(
            duplicates.contains(&twice),
            "{twice} runs beyond one a job, where {duplicates:?} are allowed"
        );
    }
}

/// Waits until a consumer takes durable jobs.
pub(crate) async fn takes_durable_jobs(consumer: &mut Service) {
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
}

/// The wait between two times: how much later the second is.
pub(crate) fn between(first: Timestamp, second: Timestamp) -> Duration {
    let milliseconds = second.milliseconds_ahead_of(first);
    Duration::from_millis(u64::try_from(milliseconds).expect("the second time is the later one"))
}

async fn listen(client: &Client) -> Events {
    let events = Events::default();
    let mut messages = client.subscribe("jobs.events.*").await.unwrap();
    client.flush().await.unwrap();
    let heard = Arc::clone(&events);
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            // Tests put what is no record there as well.
            let Ok(record) = serde_json::from_slice::<JobRecord>(&message.payload) else {
                continue;
            };
            heard
                .lock()
                .unwrap()
                .entry(record.id)
                .or_default()
                .push(record);
        }
    });
    events
}

/// The priority that a job names, as its submitter puts it into the subject.
fn priority_of(job: &Value) -> Priority {
    let named = job["priority"].as_str();
    named.map_or(Priority::Normal, |named| named.parse().unwrap())
}

/// Publishes to a stream; the outer `None` says that the server did not answer.
async fn ask(
    client: &Client,
    subject: String,
    headers: HeaderMap,
    payload: impl Into<bytes::Bytes>,
    patience: Duration,
) -> Option<Result<u64, Refused>> {
    let request = Request::new()
        .headers(headers)
        .payload(payload.into())
        .timeout(Some(patience));
    let answer = client.send_request(subject, request).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    Some(match answer["error"]["err_code"].as_u64() {
        Some(code) => Err(Refused {
            code,
            description: answer["error"]["description"].to_string(),
        }),
        None => Ok(answer["seq"].as_u64().unwrap()),
    })
}

/// Stores jobs all at once, for the first time or again; the outer `None` says that the server did
/// not answer.
async fn store_batch(
    client: &Client,
    jobs: &[(JobId, Value)],
    first: bool,
    patience: Duration,
) -> Option<Result<u64, Refused>> {
    let batch = JobId::generate().to_string();
    for (place, (id, job)) in jobs.iter().enumerate() {
        let mut job = job.clone();
        job["id"] = json!(id);
        let kind: JobKind = job["kind"].as_str().unwrap().parse().unwrap();
        let subject = subjects::durable_job(*id, priority_of(&job), 1, &kind);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let all_of_the_job = format!("{}.{id}.>", subjects::DURABLE);
        headers.insert(
            "Nats-Expected-Last-Subject-Sequence-Subject",
            all_of_the_job,
        );
        if first {
            headers.insert(subjects::FRESH_HEADER, "1");
        }
        headers.insert("Nats-Batch-Id", batch.as_str());
        headers.insert("Nats-Batch-Sequence", (place + 1).to_string());
        if place + 1 == jobs.len() {
            headers.insert("Nats-Batch-Commit", "1");
            return ask(client, subject, headers, job.to_string(), patience).await;
        }
        let sent = client.publish_with_headers(subject, headers, job.to_string().into());
        sent.await.unwrap();
    }
    panic!("a batch without jobs")
}

/// Somebody who submits jobs and repeats what the server did not confirm, as a publisher does.
pub(crate) struct Submitter {
    client: Client,
    /// How many jobs the server has confirmed so far.
    confirmed: tokio::sync::watch::Sender<usize>,
}

impl Submitter {
    pub(crate) fn new(lane: &Lane) -> Self {
        Self {
            client: lane.operator.clone(),
            confirmed: tokio::sync::watch::Sender::new(0),
        }
    }

    pub(crate) fn confirmed(&self) -> tokio::sync::watch::Receiver<usize> {
        self.confirmed.subscribe()
    }

    /// Stores these jobs, in batches, however often the server is away meanwhile.
    pub(crate) async fn submit(self, jobs: Vec<(JobId, Value)>, batch: usize) -> Vec<JobId> {
        const PATIENCE: Duration = Duration::from_secs(2);
        for batch in jobs.chunks(batch) {
            let mut stored = store_batch(&self.client, batch, true, PATIENCE).await;
            while !matches!(stored, Some(Ok(_))) {
                // Whether the batch was stored is seen when it is sent again: as a whole it is known
                // then, since it was stored as a whole or not at all.
                stored = store_batch(&self.client, batch, false, PATIENCE).await;
                if matches!(&stored, Some(Err(refused)) if refused.is_known()) {
                    break;
                }
            }
            self.confirmed
                .send_modify(|confirmed| *confirmed += batch.len());
        }
        jobs.into_iter().map(|(id, _)| id).collect()
    }
}

impl Refused {
    /// Whether the reason is that the job is stored already.
    pub(crate) fn is_known(&self) -> bool {
        // There is a message with this subject, or there was none expected.
        [STORED_ALREADY, 10071, 10164].contains(&self.code)
    }
}

/// All of them ended as they should.
pub(crate) fn succeeded(ended: &BTreeMap<JobId, JobRecord>) {
    for record in ended.values() {
        assert_eq!(record.state, JobState::Succeeded, "{record:?}");
    }
}

/// All of them ended as they should, and none needed a second attempt.
pub(crate) fn succeeded_at_once(ended: &BTreeMap<JobId, JobRecord>) {
    succeeded(ended);
    for record in ended.values() {
        assert_eq!(record.attempt, 1, "{record:?}");
    }
}
