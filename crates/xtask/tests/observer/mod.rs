//! Asking all consumers how they are, as any client of the user `status` can.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use common::{ConsumerStatus, subjects};
use futures_util::StreamExt as _;
use test_support::{DEADLINE, eventually};

/// What each consumer says of itself, by its name.
pub(crate) type Statuses = BTreeMap<String, ConsumerStatus>;

pub(crate) struct Observer(pub(crate) Client);

impl Observer {
    /// Gathers answers until there are so many, or no more come.
    pub(crate) async fn ask(&self, count: usize) -> Statuses {
        const PATIENCE: Duration = Duration::from_millis(300);
        let inbox = self.0.new_inbox();
        let mut answers = self.0.subscribe(inbox.clone()).await.unwrap();
        self.0
            .publish_with_reply(subjects::STATUS, inbox, "".into())
            .await
            .unwrap();
        let mut statuses = BTreeMap::new();
        while statuses.len() < count
            && let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, answers.next()).await
            && answer.status.is_none()
        {
            let status: ConsumerStatus = serde_json::from_slice(&answer.payload).unwrap();
            statuses.insert(status.consumer.clone(), status);
        }
        statuses
    }

    /// The answers of so many consumers, once that many answer and all of them are as wanted.
    pub(crate) async fn statuses(
        &self,
        count: usize,
        wanted: impl Fn(&ConsumerStatus) -> bool,
    ) -> Statuses {
        let what = format!("the answers on jobs.status of {count} consumers that are as wanted");
        eventually(DEADLINE, &what, async || {
            let statuses = self.ask(count).await;
            (statuses.len() == count && statuses.values().all(&wanted)).then_some(statuses)
        })
        .await
    }
}

/// Jobs that ended in consumers, all of them together.
pub(crate) fn processed<'a>(statuses: impl IntoIterator<Item = &'a ConsumerStatus>) -> u64 {
    let processed = statuses.into_iter().map(|status| status.totals.processed);
    processed.sum()
}
