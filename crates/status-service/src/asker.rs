use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Message, StatusCode};
use bootstrap::{Client, Subscriber};
use common::ConsumerState;
use common::subjects::STATUS;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use crate::{Answer, InstanceId};

/// The most answers that are read of one round.
const MAX_ANSWERS: usize = 10_000;

/// How long a round goes on after an answer when all known consumers have answered: so long have
/// others to show up in the same round. One that is slower is found by its late answer, and the
/// next round waits for it.
const QUIET: Duration = Duration::from_millis(100);

/// Asks the consumers, one round at a time.
///
/// All rounds share one inbox, and the last token of the reply subject tells which round an
/// answer belongs to.
#[derive(Debug)]
pub struct Asker {
    client: Client,
    inbox: String,
    answers: Subscriber,
    round: u64,
    /// Messages that are still read until the next round.
    budget: usize,
}

/// What came of one question.
#[derive(Clone, Debug)]
pub struct Round {
    /// When it was asked.
    pub asked_at: std::time::Instant,
    /// One answer of each consumer that answered in time.
    pub answers: Vec<Answer>,
    /// Answers to earlier rounds.
    pub late: Vec<Answer>,
    /// Why it ended.
    pub ended: Ended,
    /// Messages that were no answers.
    pub ignored: Ignored,
}

/// Why a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All known consumers have answered, and no others within a short while.
    Complete,
    /// Time was up before all known consumers had answered.
    TimedOut,
    /// The server knows nobody who would answer.
    NoResponders,
    /// There were more messages than are read of one round.
    Cut,
}

/// Messages that were ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// No status of a consumer, or too large.
    pub garbage: u64,
    /// A second answer of the same consumer in one round.
    pub duplicates: u64,
    /// What was wrong with the first of the garbage; may hold text from the message.
    pub reason: Option<String>,
}

impl Ignored {
    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.garbage + self.duplicates
    }

    fn garbage(&mut self, error: &anyhow::Error) {
        self.garbage += 1;
        self.reason
            .get_or_insert_with(|| format!("{error:#}").chars().take(200).collect());
    }
}

impl Round {
    /// A second answer counts only if it is the last word of a consumer that stops.
    fn again(&mut self, before: usize, answer: Answer) {
        let before = &mut self.answers[before];
        if answer.state == ConsumerState::Draining && before.state != ConsumerState::Draining {
            *before = answer;
        } else {
            self.ignored.duplicates += 1;
        }
    }
}

impl Asker {
    /// Makes ready to receive answers.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(client: Client) -> anyhow::Result<Self> {
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

    /// Asks all consumers and gathers their answers: until all that are `awaited` have answered
    /// and no others show up, or `timeout` has passed.
    ///
    /// It may be dropped at any time; what then comes is late.
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
        let mut round = Round {
            asked_at: asked_at.into_std(),
            answers: Vec::new(),
            late: Vec::new(),
            ended: Ended::TimedOut,
            ignored: Ignored::default(),
        };
        let question = self
            .client
            .publish_with_reply(STATUS, reply.clone(), "".into());
        match timeout_at(deadline, question).await {
            Ok(asked) => asked.context("cannot ask on jobs.status")?,
            // The client's buffer is full: there is no connection.
            Err(_) => return Ok(round),
        }
        let mut seen = BTreeMap::new();
        let mut quiet_at = None;
        loop {
            // Nobody is awaited at the start; then the first answer is.
            let complete_at = quiet_at.filter(|_| awaited.is_empty());
            let until = complete_at.map_or(deadline, |at: Instant| at.min(deadline));
            let Ok(message) = timeout_at(until, self.answers.next()).await else {
                if complete_at.is_some() {
                    round.ended = Ended::Complete;
                }
                return Ok(round);
            };
            let message = message.context("the connection to NATS was closed")?;
            let in_time = message.subject.as_str() == reply;
            if is_no_responders(&message) {
                // The server says so instead of any answer; if there are answers, anybody did.
                if in_time && round.answers.is_empty() {
                    round.ended = Ended::NoResponders;
                    return Ok(round);
                }
                continue;
            }
            if self.budget == 0 {
                round.ended = Ended::Cut;
                return Ok(round);
            }
            self.budget -= 1;
            let answer = match Answer::read(&message.payload, asked_at.elapsed()) {
                Err(error) => {
                    round.ignored.garbage(&error);
                    continue;
                }
                Ok(answer) => answer,
            };
            if !in_time {
                round.late.push(answer);
            } else if let Some(&before) = seen.get(&answer.id) {
                round.again(before, answer);
            } else {
                awaited.remove(&answer.id);
                seen.insert(answer.id.clone(), round.answers.len());
                round.answers.push(answer);
                quiet_at = Some(Instant::now() + QUIET);
            }
        }
    }

    /// Waits for an answer that comes when no round goes on any more.
    ///
    /// Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn late(&mut self) -> anyhow::Result<Answer> {
        loop {
            let message = self.answers.next().await;
            let message = message.context("the connection to NATS was closed")?;
            if self.budget == 0 || is_no_responders(&message) {
                continue;
            }
            self.budget -= 1;
            if let Ok(answer) = Answer::read(&message.payload, Duration::ZERO) {
                return Ok(answer);
            }
        }
    }
}

fn is_no_responders(message: &Message) -> bool {
    message.status == Some(StatusCode::NO_RESPONDERS)
}
