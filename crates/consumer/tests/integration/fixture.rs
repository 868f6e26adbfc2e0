//! A nats-server, consumers on it, and a client that submits jobs.

use std::time::Duration;

use async_nats::{Client, Request};
use common::{ConsumerStatus, Outcome, subjects};
use futures_util::StreamExt as _;
use test_support::{DEADLINE, NatsServer, Service, eventually};

pub(crate) struct Fixture {
    pub(crate) server: NatsServer,
    pub(crate) publisher: Client,
    observer: Client,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        let server = NatsServer::start().await;
        let publisher = server.connect_as("publisher").await;
        let observer = server.connect_as("status").await;
        Self {
            server,
            publisher,
            observer,
        }
    }

    /// A consumer that takes jobs.
    pub(crate) async fn consumer(&self, args: &[&str]) -> Service {
        let mut consumer = self.consumer_without_waiting(args);
        consumer
            .wait_for_line(|line| line.contains("taking jobs"))
            .await;
        consumer
    }

    pub(crate) fn consumer_without_waiting(&self, args: &[&str]) -> Service {
        Service::program(env!("CARGO_BIN_EXE_consumer"))
            .envs(self.server.env_for("worker"))
            .args(args)
            .start()
    }

    /// Gives a consumer a job that does not end. A consumer that is about to join the group is not
    /// there yet, and one that is full hands it back: then it is submitted again.
    pub(crate) async fn occupy(&self) {
        let job = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
        eventually(DEADLINE, "a consumer that keeps the job", async || {
            let answer = self.publisher.request(subjects::CREATE, job.into());
            let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
            answer.is_err().then_some(())
        })
        .await;
    }

    /// Publishes a job so many times without asking for its outcome.
    pub(crate) async fn publish(&self, job: &'static str, times: u64) {
        for _ in 0..times {
            self.publisher
                .publish(subjects::CREATE, job.into())
                .await
                .unwrap();
        }
    }

    /// Submits one job, and waits for its outcome.
    pub(crate) async fn outcome(&self, job: &str) -> Outcome {
        self.outcome_on(subjects::CREATE, job.as_bytes()).await
    }

    pub(crate) async fn outcome_on(&self, subject: &str, job: &[u8]) -> Outcome {
        let request = Request::new()
            .payload(job.to_vec().into())
            .timeout(Some(DEADLINE));
        let answer = self
            .publisher
            .send_request(subject.to_owned(), request)
            .await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    }

    /// What each consumer says of itself, sorted by name, once `count` answer.
    pub(crate) async fn statuses(&self, count: usize) -> Vec<ConsumerStatus> {
        eventually(
            DEADLINE,
            &format!("{count} answers on jobs.status"),
            async || {
                let statuses = self.ask_status().await;
                (statuses.len() == count).then_some(statuses)
            },
        )
        .await
    }

    /// The status of the only consumer, once it is as wanted.
    pub(crate) async fn status(&self, wanted: impl Fn(&ConsumerStatus) -> bool) -> ConsumerStatus {
        eventually(DEADLINE, "the status that was asked for", async || {
            let status = self.ask_status().await.pop()?;
            wanted(&status).then_some(status)
        })
        .await
    }

    async fn ask_status(&self) -> Vec<ConsumerStatus> {
        let inbox = self.observer.new_inbox();
        let mut answers = self.observer.subscribe(inbox.clone()).await.unwrap();
        self.observer
            .publish_with_reply(subjects::STATUS, inbox, "".into())
            .await
            .unwrap();
        let mut statuses = Vec::new();
        // A gathering has no end of its own; who does not answer in this time is asked again.
        while let Ok(Some(answer)) =
            tokio::time::timeout(Duration::from_millis(300), answers.next()).await
        {
            if answer.status.is_some() {
                break;
            }
            statuses.push(serde_json::from_slice::<ConsumerStatus>(&answer.payload).unwrap());
        }
        statuses.sort_by(|a, b| a.consumer.cmp(&b.consumer));
        statuses
    }
}

/// The error code of an outcome.
pub(crate) fn code(outcome: &Outcome) -> &str {
    outcome.error.as_ref().map_or("", |error| &*error.code)
}
