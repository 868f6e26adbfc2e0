//! Follows the settings of kinds whose priorities are heeded.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{DeadReason, JobKind, JobSubject, KindSetting, OutcomeError, Priority, codes};
use futures_util::future::join_all;
use jetstream::{
    Stream, Topology, consumer_of_priority, direct_get, jobs_of_kind, manage, priorities, records,
};
use tracing::warn;

use crate::durable_consumer;
use crate::lease::Lease;
use crate::queues::Queues;
use crate::store::{JobStore, Written};
use crate::unheeded::Unheeded;

/// How many messages of a kind a look makes dead letters of.
const MOST: usize = 1000;

pub(crate) struct Priorities {
    pub(crate) store: Arc<JobStore>,
    pub(crate) topology: Topology,
    pub(crate) queues: Queues,
    pub(crate) unheeded: Unheeded,
}

impl Priorities {
    /// Stores that the priorities of the kinds are heeded of which this consumer got such a job. Adds that to
    /// the settings, which were just read.
    pub(super) async fn switch_on(
        &self,
        settings: &mut BTreeMap<JobKind, KindSetting>,
    ) -> anyhow::Result<()> {
        let unheeded = self.unheeded.kinds();
        for kind in unheeded {
            if settings
                .get(&kind)
                .is_none_or(|setting| !setting.priorities)
            {
                let (client, now) = (&self.store.client, self.store.clock.now());
                let by = Some(self.store.instance.as_str());
                let setting = durable_consumer::heed(client, &kind, now, by).await?;
                settings.insert(kind.clone(), setting);
            }
            self.unheeded.remove(&kind);
        }
        Ok(())
    }

    /// Makes the durable consumers of these kinds, and lets this consumer pull from them.
    pub(super) async fn follow(&self, kinds: &[&JobKind]) -> anyhow::Result<()> {
        let each = kinds.iter().map(|kind| self.follow_one(kind));
        join_all(each).await.into_iter().collect()
    }

    async fn follow_one(&self, kind: &JobKind) -> anyhow::Result<()> {
        let client = &self.store.client;
        priorities::separate(client, self.topology, kind).await?;
        for priority in Priority::ALL {
            let name = consumer_of_priority(kind, priority);
            self.queues.add(Stream::Jobs, kind, name);
        }
        self.bury_without_priority(kind).await
    }

    /// Makes dead letters of the oldest messages of a kind whose subject names no priority: no durable
    /// consumer of the kind delivers them. What else is older has ended and is removed, so they become the
    /// oldest.
    async fn bury_without_priority(&self, kind: &JobKind) -> anyhow::Result<()> {
        let store = &self.store;
        let client = &store.client;
        let filter = jobs_of_kind(Stream::Jobs, kind);
        for _ in 0..MOST {
            let first = direct_get::next(client, Stream::Jobs, &filter, 1).await?;
            let Some(message) = first.filter(|first| !names_priority(&first.subject)) else {
                return Ok(());
            };
            let subject = JobSubject::of_unreadable(message.sequence, kind.clone());
            let found = records::one(client, subject.id).await?;
            let headers = Some(message.headers);
            let lease = Lease::without_delivery(subject, headers, message.payload, found.as_ref());
            let text = format!("the subject {:?} names no priority", message.subject);
            warn!(job.kind = %kind, "a message becomes a dead letter: {text}");
            let error = OutcomeError::new(codes::INVALID_JOB, text);
            let record = store.record(&lease);
            let buried = store
                .die(&lease, record, DeadReason::Undecodable, Some(error))
                .await;
            match buried {
                Written::Yes | Written::Ended => {}
                Written::Superseded | Written::GaveUp => return Ok(()),
            }
            manage::delete_message(client, Stream::Jobs, message.sequence).await?;
        }
        Ok(())
    }
}

/// Whether the subject of a job names a priority.
fn names_priority(subject: &str) -> bool {
    let priority = subject.split('.').nth(3);
    priority.is_some_and(|priority| priority.parse::<Priority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_names_a_priority_or_none() {
        for priority in Priority::ALL {
            assert!(names_priority(&format!("jobs.durable.x.{priority}.y.a.b")));
        }
        assert!(!names_priority("jobs.durable.x.urgent.1.a.b"));
        assert!(!names_priority("jobs"));
    }
}
