//! Submits the jobs of a run, by three ways, until each is acknowledged or refused.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{NewJob, Patience, SubmitError, Submitter};
use common::{JobId, Timestamp};
use serde_json::{Value, json};
use test_support::{DEADLINE, http_post};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::history::{Event, History, Submission, Way, micros, now};
use super::stand::Stand;
use super::workload::{Spec, Workload};

/// How often the publisher is started.
const BATCH: Duration = Duration::from_secs(2);

/// How long a submission is tried again after it failed.
const PERSISTENCE: Duration = Duration::from_secs(90);

/// The wait before it is tried again.
const AGAIN: Duration = Duration::from_millis(300);

/// Everything that a submission needs.
#[derive(Clone)]
pub(super) struct Load {
    stand: Arc<Stand>,
    history: History,
    submitter: Submitter,
}

impl Load {
    pub(super) fn new(stand: &Arc<Stand>, history: &History) -> Self {
        let patience = Patience {
            confirm: Duration::from_secs(20),
            wait_for_nats: true,
            wait_for_room: false,
        };
        let application = &stand.application;
        Self {
            submitter: Submitter::over(application.nats(), application.connected(), patience),
            stand: Arc::clone(stand),
            history: history.clone(),
        }
    }

    /// Submits jobs at a rate for so long, and returns when the fate of each is known, or it was tried for long
    /// enough.
    pub(super) async fn run(self, seed: u64, span: Duration, rate: u32) -> anyhow::Result<()> {
        let mut workload = Workload::new(seed);
        let mut pace = interval(Duration::from_secs(1) / rate);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let end = Instant::now() + span;
        let mut tasks = JoinSet::new();
        let (batch, batched) = mpsc::unbounded_channel();
        tasks.spawn_local(self.clone().by_publisher(batched));
        while Instant::now() < end {
            pace.tick().await;
            let spec = workload.next(Timestamp::now());
            match spec.way {
                Way::Client => {
                    tasks.spawn_local(self.clone().by_client(spec));
                }
                Way::Http => {
                    let load = self.clone();
                    tasks.spawn_local(async move {
                        load.by_http(spec).await;
                        Ok(())
                    });
                }
                Way::Publisher => batch.send(spec).context("the publisher's task has ended")?,
            }
            while let Some(ended) = tasks.try_join_next() {
                ended.context("a submitter failed")??;
            }
        }
        self.history.note(Event::LoadEnded { at: now() });
        drop(batch);
        while let Some(ended) = tasks.join_next().await {
            ended.context("a submitter failed")??;
        }
        Ok(())
    }

    /// Submits one job with the crate `client`.
    pub(super) async fn by_client(self, spec: Spec) -> anyhow::Result<()> {
        let mut job = NewJob::decode(spec.job.to_string().into())?;
        self.submitted(&spec, job.id);
        let since = Instant::now();
        while since.elapsed() < PERSISTENCE {
            match self.submitter.submit(&job).await {
                Ok(_) => {
                    self.acknowledged(&spec, job.id).await;
                    return Ok(());
                }
                Err(SubmitError::Conflict { .. }) => {
                    self.refused(job.id);
                    return Ok(());
                }
                Err(_) => sleep(AGAIN).await,
            }
            job.fresh = false;
        }
        Ok(())
    }

    async fn by_http(self, spec: Spec) {
        let (id, job) = with_id(&spec);
        self.submitted(&spec, id);
        let (since, job) = (Instant::now(), job.to_string());
        let address = ("127.0.0.1", self.stand.gateway_port);
        while since.elapsed() < PERSISTENCE {
            let answer = timeout(
                Duration::from_secs(15),
                http_post(address, "/v1/jobs", &job),
            );
            match answer.await {
                Ok(Ok(answer)) if matches!(answer.status, 200 | 202) => {
                    self.acknowledged(&spec, id).await;
                    return;
                }
                _ => sleep(AGAIN).await,
            }
        }
    }

    /// Gives jobs to publishers, one after the other.
    async fn by_publisher(self, mut specs: mpsc::UnboundedReceiver<Spec>) -> anyhow::Result<()> {
        let mut followers = JoinSet::new();
        let mut number = 0;
        let mut batch = Vec::new();
        while specs.recv_many(&mut batch, 1000).await > 0 {
            sleep(BATCH).await;
            while let Ok(spec) = specs.try_recv() {
                batch.push(spec);
            }
            number += 1;
            for (spec, id) in self.publish(number, std::mem::take(&mut batch)).await? {
                let load = self.clone();
                followers.spawn_local(async move { load.cancel(&spec, id).await });
            }
        }
        while let Some(ended) = followers.join_next().await {
            ended.context("a submitter failed")?;
        }
        Ok(())
    }

    /// Has these jobs published, by as many publishers as it takes, and returns those that were stored.
    async fn publish(&self, number: u32, specs: Vec<Spec>) -> anyhow::Result<Vec<(Spec, JobId)>> {
        let jobs = specs.into_iter().map(|spec| (with_id(&spec), spec));
        let mut open: Vec<_> = jobs.map(|((id, job), spec)| (id, job, spec)).collect();
        for (id, _, spec) in &open {
            self.submitted(spec, *id);
        }
        let (input, output) = (format!("jobs-{number}"), format!("outcomes-{number}"));
        let mut stored = Vec::new();
        let since = Instant::now();
        while !open.is_empty() && since.elapsed() < PERSISTENCE {
            let mut text = String::new();
            for (_, job, _) in &open {
                writeln!(text, "{job}")?;
            }
            fs::write(self.stand.file(&input), text).context("cannot write jobs")?;
            *self.stand.publisher.lock().await = Some(self.stand.start_publisher(&input, &output));
            self.publisher_ends().await;
            // A publisher that was killed has not written all, and perhaps not a whole line.
            let outcomes = fs::read_to_string(self.stand.file(&output)).unwrap_or_default();
            let outcomes = outcomes.lines();
            let values = outcomes.filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let told: Vec<_> = values
                .filter(|value| matches!(value["status"].as_str(), Some("stored" | "known")))
                .filter_map(|value| value["id"].as_str()?.parse::<JobId>().ok())
                .collect();
            let (done, left): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|(id, ..)| told.contains(id));
            for (id, _, spec) in done {
                // Told now, as the run of the publisher is what a person would look at.
                self.history.note(Event::Acknowledged { at: now(), id });
                stored.push((spec, id));
            }
            open = left;
            let _ = fs::remove_file(self.stand.file(&output));
        }
        Ok(stored)
    }

    async fn publisher_ends(&self) {
        let since = Instant::now();
        loop {
            let mut publisher = self.stand.publisher.lock().await;
            let Some(service) = &mut *publisher else {
                return;
            };
            if since.elapsed() > DEADLINE {
                service.kill().await;
            }
            if service.exited().is_some() {
                *publisher = None;
                return;
            }
            drop(publisher);
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn submitted(&self, spec: &Spec, id: JobId) {
        self.history.note(Event::Submitted(Submission {
            at: now(),
            id,
            way: spec.way,
            kind: spec.kind.name().to_owned(),
            run_at: spec.run_at.map(micros),
            deadline: spec.deadline.map(micros),
            key: spec.key.clone(),
        }));
    }

    fn refused(&self, id: JobId) {
        self.history.note(Event::Refused { at: now(), id });
    }

    async fn acknowledged(&self, spec: &Spec, id: JobId) {
        self.history.note(Event::Acknowledged { at: now(), id });
        self.cancel(spec, id).await;
    }

    /// Cancels a job that is to be cancelled.
    async fn cancel(&self, spec: &Spec, id: JobId) {
        let Some(wait) = spec.cancel_after else {
            return;
        };
        sleep(wait).await;
        self.history.note(Event::CancelRequested { at: now(), id });
        let since = Instant::now();
        while since.elapsed() < PERSISTENCE {
            if client::cancel(self.stand.operator.nats(), id).await.is_ok() {
                let at = now();
                self.history.note(Event::CancelAcknowledged { at, id });
                return;
            }
            sleep(AGAIN).await;
        }
    }
}

/// The job with an id that its submitter chose.
fn with_id(spec: &Spec) -> (JobId, Value) {
    let id = JobId::generate();
    let mut job = spec.job.clone();
    job["id"] = json!(id);
    (id, job)
}
