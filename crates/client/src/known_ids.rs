//! Looks up which ids are known, those of many submissions with one request.

use std::collections::HashSet;
use std::time::Duration;

use common::JobId;
use connection::{Beat, Nats, NatsClient, STILL, alive};
use futures_util::future::try_join_all;
use jetstream::ApiError;
use jetstream::records::{MOST, Records};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::job::NewJob;

/// How many ids can wait for a look-up. If there are more, [`KnownIds::any`] waits for room.
const WAITING: usize = 4096;

/// For how long nothing is looked up after the user was found to have no right to it.
const FORBIDDEN: Duration = Duration::from_mins(5);

/// Looks up whether the ids of jobs have a record. Ids that arrive while a request is under way go
/// into the next one.
#[derive(Clone, Debug)]
pub(crate) struct KnownIds(mpsc::Sender<Question>);

#[derive(Debug)]
struct Question {
    id: JobId,
    /// Receives whether the id is known, or why nobody can say.
    answer: oneshot::Sender<Result<bool, String>>,
}

impl KnownIds {
    /// Starts the look-ups; they end with the last clone.
    pub(crate) fn start(client: NatsClient, connected: watch::Receiver<bool>) -> Self {
        Self::start_with(client, connected, None)
    }

    /// The same for the connection of a service: its health watches the look-ups.
    pub(crate) fn supervised(nats: &Nats) -> Self {
        let life = nats.health.task("look-ups of submissions", STILL);
        Self::start_with(nats.client.clone(), nats.connected(), Some(life))
    }

    fn start_with(
        client: NatsClient,
        connected: watch::Receiver<bool>,
        life: Option<Beat>,
    ) -> Self {
        let (questions, waiting) = mpsc::channel(WAITING);
        let look_ups = LookUps {
            client,
            connected,
            records: None,
            forbidden: None,
        };
        tokio::spawn(answer(look_ups, waiting, life));
        Self(questions)
    }

    /// Whether any of these jobs is known by its record. Fresh ones are not looked up. The error says why
    /// nobody can say.
    pub(crate) async fn any(&self, jobs: &[NewJob]) -> Result<bool, String> {
        let given = jobs.iter().filter(|job| !job.fresh);
        let known = try_join_all(given.map(|job| self.is_known(job.id))).await?;
        Ok(known.contains(&true))
    }

    async fn is_known(&self, id: JobId) -> Result<bool, String> {
        let gone = || "the look-ups were stopped".to_owned();
        let (answer, known) = oneshot::channel();
        let question = Question { id, answer };
        self.0.send(question).await.map_err(|_| gone())?;
        known.await.map_err(|_| gone())?
    }
}

async fn answer(
    mut look_ups: LookUps,
    mut waiting: mpsc::Receiver<Question>,
    mut life: Option<Beat>,
) {
    let mut group = Vec::new();
    while alive(&mut life, waiting.recv_many(&mut group, MOST)).await > 0 {
        let ids: Vec<_> = group.iter().map(|question| question.id).collect();
        let known = alive(&mut life, look_ups.known(ids)).await;
        for Question { id, answer } in group.drain(..) {
            let known = known.as_ref().map(|known| known.contains(&id));
            // Nobody hears it if the submission was dropped meanwhile.
            let _ = answer.send(known.map_err(Clone::clone));
        }
    }
}

struct LookUps {
    client: NatsClient,
    connected: watch::Receiver<bool>,
    /// `None` until the first look-up.
    records: Option<Records>,
    /// When the user was last found to have no right to read records.
    forbidden: Option<Instant>,
}

impl LookUps {
    /// Those of the ids that have a record. What is stored there but is no record does not count: a job is
    /// not lost because of it, and the next record replaces it.
    async fn known(&mut self, ids: Vec<JobId>) -> Result<HashSet<JobId>, String> {
        if self
            .forbidden
            .is_some_and(|since| since.elapsed() < FORBIDDEN)
        {
            return Ok(HashSet::new());
        }
        let lost = || "the connection to NATS was lost".to_owned();
        let mut connected = self.connected.clone();
        if !*connected.borrow_and_update() {
            return Err(lost());
        }
        let found = tokio::select! {
            found = self.found(ids) => found,
            _ = connected.changed() => return Err(lost()),
        };
        match found {
            Ok(known) => Ok(known),
            // No stream, and so no record.
            Err(ApiError::NoJetStream(_)) => Ok(HashSet::new()),
            Err(error) if self.is_forbidden(&error) => {
                warn!(
                    "a job that has ended is reported as stored when it is submitted again, as its record \
                     cannot be read: {error}"
                );
                self.forbidden = Some(Instant::now());
                Ok(HashSet::new())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn found(&mut self, ids: Vec<JobId>) -> Result<HashSet<JobId>, ApiError> {
        let records = match &mut self.records {
            Some(records) => records,
            none => none.insert(Records::new(&self.client).await?),
        };
        let found = records.of(ids).await?;
        let known = found
            .into_iter()
            .filter(|(_, stored)| stored.record.is_some());
        Ok(known.map(|(id, _)| id).collect())
    }

    /// Whether the server refuses the look-up, or drops it in silence: a connection of the application does
    /// not say which.
    fn is_forbidden(&self, error: &ApiError) -> bool {
        match error {
            ApiError::Forbidden(_) => true,
            ApiError::NoAnswer { .. } => !self.client.knows_refusals(),
            _ => false,
        }
    }
}
