use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Message, StatusCode};
use bootstrap::{NatsClient, Subscriber};
use common::subjects::STATUS;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::answer::{InstanceId, StatusAnswer};
use super::round::{Round, RoundEnd};

/// The most messages that are read in one round.
const MAX_ANSWERS: usize = 10_000;

/// How long a round goes on after the last answer, once all known consumers have answered, so that
/// new consumers are found in it. A slower one is found by its late answer, and the next round waits
/// for it.
const QUIET: Duration = Duration::from_millis(100);

/// Asks the consumers, one round at a time.
///
/// All rounds share one inbox. The last token of the reply subject is the number of the round.
#[derive(Debug)]
pub struct Asker {
    client: NatsClient,
    inbox: String,
    answers: Subscriber,
    round: u64,
    /// How many more messages are read before the next round.
    budget: usize,
}

impl Asker {
    /// Subscribes to answers.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(client: NatsClient) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client
            .subscribe(format!("{inbox}.*"))
            .await
            .context("cannot subscribe to answers on jobs.status")?;
        Ok(Self {
            client,
            inbox,
            answers,
            round: 0,
            budget: 0,
        })
    }

    /// Asks all consumers, and collects answers until all consumers in `awaited` have answered and no
    /// others follow, or until `timeout` has passed.
    ///
    /// The future may be dropped at any time. Answers that come after that are late.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn ask(
        &mut self,
        mut awaited: BTreeSet<InstanceId>,
        timeout: Duration,
    ) -> anyhow::Result<Round> {
        self.round += 1;
        self.budget = MAX_ANSWERS;
        let reply = format!("{}.{}", self.inbox, self.round);
        let asked_at = Instant::now();
        let deadline = asked_at + timeout;
        let mut round = Round::new(asked_at.into_std());
        let question = self
            .client
            .publish_with_reply(STATUS, reply.clone(), "".into());
        match timeout_at(deadline, question).await {
            Ok(asked) => asked.context("cannot ask on jobs.status")?,
            // The client's send queue is full, because there is no connection.
            Err(_) => return Ok(round),
        }
        // The index of each consumer's answer.
        let mut seen = BTreeMap::new();
        let mut quiet_at = None;
        loop {
            // If no consumer is known, the round waits for the first answer.
            let complete_at = quiet_at.filter(|_| awaited.is_empty());
            let until = complete_at.map_or(deadline, |at: Instant| at.min(deadline));
            let Ok(message) = timeout_at(until, self.answers.next()).await else {
                if complete_at.is_some() {
                    round.end = RoundEnd::Complete;
                }
                return Ok(round);
            };
            let message = message.context("the connection to NATS was closed")?;
            let in_time = message.subject.as_str() == reply;
            if is_no_responders(&message) {
                // The server sends this instead of answers. If there are answers, a client sent it.
                if in_time && round.answers.is_empty() {
                    round.end = RoundEnd::NoResponders;
                    return Ok(round);
                }
                continue;
            }
            if self.budget == 0 {
                round.end = RoundEnd::Truncated;
                return Ok(round);
            }
            self.budget -= 1;
            let answer = match StatusAnswer::read(&message.payload, asked_at.elapsed()) {
                Err(error) => {
                    round.ignored.add_garbage(&error);
                    continue;
                }
                Ok(answer) => answer,
            };
            if !in_time {
                round.late.push(answer);
            } else if let Some(&first) = seen.get(&answer.id) {
                round.add_again(first, answer);
            } else {
                awaited.remove(&answer.id);
                seen.insert(answer.id.clone(), round.answers.len());
                round.answers.push(answer);
                quiet_at = Some(Instant::now() + QUIET);
            }
        }
    }

    /// Waits for an answer that comes between two rounds.
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn late(&mut self) -> anyhow::Result<StatusAnswer> {
        loop {
            let message = self.answers.next().await;
            let message = message.context("the connection to NATS was closed")?;
            if self.budget == 0 || is_no_responders(&message) {
                continue;
            }
            self.budget -= 1;
            if let Ok(answer) = StatusAnswer::read(&message.payload, Duration::ZERO) {
                return Ok(answer);
            }
        }
    }
}

fn is_no_responders(message: &Message) -> bool {
    message.status == Some(StatusCode::NO_RESPONDERS)
}
