//! A cluster, consumers on it, and a program that submits jobs to it without pause.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Client, JobId, JobRecord, NatsClient, NewJob, Options, Patience, Submitter};
use jetstream::records::{self, Records};
use jetstream::{Stream, manage};
use serde_json::{Value, json};
use test_support::{NatsCluster, Service, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How long jobs may take to end after a server was lost: an election, the ack wait, a retry, and
/// the watch that looks for schedules which the server has missed.
pub(crate) const RECOVERY: Duration = Duration::from_secs(90);

/// How many jobs are submitted at the same time, and how long after each the next follows.
const ABREAST: usize = 20;
const PACE: Duration = Duration::from_millis(100);

pub(crate) struct Fixture {
    pub(crate) cluster: NatsCluster,
    pub(crate) admin: async_nats::Client,
    /// Of the user `application`, connected to any of the servers.
    pub(crate) jobs: Client,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        let cluster = NatsCluster::start().await;
        let admin = cluster.connect_as("admin").await;
        let jobs = Client::connect(options(&cluster.env_for("application"))).await;
        Self {
            admin,
            jobs: jobs.unwrap(),
            cluster,
        }
    }

    /// Starts a consumer that takes durable jobs.
    pub(crate) async fn consumer(&self, name: &str, arguments: &[&str]) -> Service {
        let mut consumer = self.start_consumer(name, arguments);
        consumer
            .wait_for_line(|line| line.contains("taking durable jobs"))
            .await;
        consumer
    }

    pub(crate) fn start_consumer(&self, name: &str, arguments: &[&str]) -> Service {
        Service::named("consumer")
            .envs(self.cluster.env_for("worker"))
            .env("CONSUMER_INSTANCE", name)
            .args(arguments)
            .start()
    }

    /// Submits jobs of each sort until [`Load::stop`].
    pub(crate) fn load(&self) -> Load {
        let (stop, stopped) = watch::channel(false);
        let patience = Patience {
            confirm: Duration::from_secs(30),
            wait_for_nats: true,
            wait_for_room: false,
        };
        let submitter = Submitter::over(self.jobs.nats(), self.jobs.connected(), patience);
        let tasks = (0..ABREAST).map(|_| {
            let (submitter, stopped) = (submitter.clone(), stopped.clone());
            tokio::spawn(submit(submitter, stopped))
        });
        Load {
            tasks: tasks.collect(),
            stop,
        }
    }

    /// How many jobs have a record of their end; `None` while the server does not say.
    pub(crate) async fn records(&self) -> Option<usize> {
        let client = NatsClient::from(self.admin.clone());
        let counting = manage::subjects(&client, Stream::State, "*.state.*");
        Some(counting.await.ok()?.len())
    }

    /// Waits until all of these jobs have ended, and returns their records.
    pub(crate) async fn ends(&self, jobs: &[JobId]) -> BTreeMap<JobId, JobRecord> {
        let client = NatsClient::from(self.admin.clone());
        let (mut open, mut ended) = (jobs.to_vec(), BTreeMap::new());
        eventually(RECOVERY, "the end of all jobs", async || {
            let mut records = Records::new(&client).await.ok()?;
            for some in open.chunks(records::MOST) {
                for (id, found) in records.of(some.iter().copied()).await.ok()? {
                    if let Some(record) = found.record.filter(|record| record.state.is_final()) {
                        ended.insert(id, record);
                    }
                }
            }
            open.retain(|id| !ended.contains_key(id));
            open.is_empty().then_some(())
        })
        .await;
        ended
    }
}

/// Connects as the user `application` to one of the servers only.
pub(crate) async fn connect_to(cluster: &NatsCluster, number: usize) -> Client {
    let env = cluster.server(number).env_for("application");
    Client::connect(options(&env)).await.unwrap()
}

fn options(env: &[(String, String)]) -> Options {
    let variable = |name: &str| {
        let found = env.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone())
    };
    Options::from_variables(variable).unwrap()
}

pub(crate) fn job(fields: &Value) -> NewJob {
    NewJob::decode(Bytes::from(fields.to_string())).unwrap()
}

/// A program that submits jobs.
pub(crate) struct Load {
    tasks: Vec<JoinHandle<Submitted>>,
    stop: watch::Sender<bool>,
}

/// What was submitted and confirmed.
#[derive(Default)]
pub(crate) struct Submitted {
    /// Jobs that succeed.
    pub(crate) good: Vec<JobId>,
    /// Jobs that fail twice, and then are dead.
    pub(crate) bad: Vec<JobId>,
    /// The longest time that a submission took.
    pub(crate) longest: Duration,
}

impl Load {
    /// Stops, and returns what was confirmed.
    pub(crate) async fn stop(self) -> Submitted {
        self.stop.send_replace(true);
        let mut all = Submitted::default();
        for task in self.tasks {
            let submitted = task.await.unwrap();
            all.good.extend(submitted.good);
            all.bad.extend(submitted.bad);
            all.longest = all.longest.max(submitted.longest);
        }
        all
    }
}

async fn submit(submitter: Submitter, stop: watch::Receiver<bool>) -> Submitted {
    let mut all = Submitted::default();
    let wait = json!({"initial": "4s", "factor": 1, "max": "4s"});
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_usize.. {
        pace.tick().await;
        if *stop.borrow() {
            break;
        }
        let job = job(&match number % 20 {
            0 => json!({"kind": "fail", "payload": {}, "max_attempts": 2, "backoff": wait}),
            1 => {
                json!({"kind": "echo", "run_at": client::Timestamp::now().after(Duration::from_secs(2))})
            }
            _ => json!({"kind": "echo"}),
        });
        let begun = Instant::now();
        submitter.submit(&job).await.unwrap();
        all.longest = all.longest.max(begun.elapsed());
        if number % 20 == 0 {
            all.bad.push(job.id);
        } else {
            all.good.push(job.id);
        }
    }
    all
}
