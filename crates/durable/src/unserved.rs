//! Finds jobs that wait although nobody serves their kind.
//!
//! What consumers are done with is removed from the stream, so such jobs end up in front. They are
//! looked for there, among a bounded number of the oldest jobs.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::{RequestErrorKind, StatusCode};
use bytes::Bytes;
use common::{JobKind, subjects};
use futures_util::StreamExt as _;
use serde_json::json;
use tracing::{debug, info, warn};

use crate::api::PATIENCE;
use crate::intake::Place;
use crate::lane::Shared;
use crate::topology::Stream;

/// How often they are looked for.
const PERIOD: Duration = Duration::from_secs(10);

/// How many of the oldest jobs are looked at.
const OLDEST: usize = 64;

/// How many bytes they may have together.
const MOST_BYTES: usize = 256 * 1024;

pub(crate) async fn look(shared: Arc<Shared>) {
    loop {
        match unserved(&shared).await {
            Ok(kinds) => tell(&shared, kinds),
            Err(error) => debug!("cannot look for jobs that nobody serves: {error:#}"),
        }
        // Consumers of a fleet that were started together do not look at the same moment.
        tokio::time::sleep(PERIOD.mul_f64(rand::random::<f64>() + 0.5)).await;
    }
}

fn tell(shared: &Shared, kinds: BTreeSet<JobKind>) {
    let mut known = shared
        .unserved
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for kind in kinds.difference(&known) {
        warn!(job.kind = %kind, "durable jobs wait, and no consumer serves their kind");
    }
    for kind in known.difference(&kinds) {
        info!(job.kind = %kind, "no durable jobs of a kind that nobody serves are in front any more");
    }
    *known = kinds;
}

async fn unserved(shared: &Shared) -> anyhow::Result<BTreeSet<JobKind>> {
    let mut kinds = BTreeSet::new();
    for (stream, filter) in [
        (Stream::Jobs, "jobs.durable.>"),
        (Stream::Later, "jobs.due.>"),
    ] {
        for kind in oldest(shared, stream, filter).await? {
            if !shared.options.kinds.contains(&kind)
                && !kinds.contains(&kind)
                && !is_served(shared, &kind).await?
            {
                kinds.insert(kind);
            }
        }
    }
    Ok(kinds)
}

/// The kinds of the oldest jobs.
async fn oldest(
    shared: &Shared,
    stream: Stream,
    filter: &str,
) -> anyhow::Result<BTreeSet<JobKind>> {
    let inbox = shared.client.new_inbox();
    let mut answers = shared.client.subscribe(inbox.clone()).await?;
    let request = json!({
        "seq": 1, "next_by_subj": filter, "batch": OLDEST, "max_bytes": MOST_BYTES,
    });
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let request = request.to_string().into();
    shared
        .client
        .publish_with_reply(subject, inbox, request)
        .await?;
    let mut kinds = BTreeSet::new();
    loop {
        let Some(answer) = tokio::time::timeout(PATIENCE, answers.next()).await? else {
            anyhow::bail!("the connection to NATS is closed");
        };
        // The end, or nothing at all.
        if answer.status.is_some_and(|status| status != StatusCode::OK) {
            return Ok(kinds);
        }
        let subject = answer.headers.as_ref().and_then(|headers| {
            let subject = headers.get(async_nats::header::NATS_SUBJECT)?;
            Place::of(subject.as_str())
        });
        kinds.extend(subject.map(|place| place.kind));
    }
}

async fn is_served(shared: &Shared, kind: &JobKind) -> anyhow::Result<bool> {
    let question = shared
        .client
        .request(subjects::serves_kind(kind), Bytes::new());
    match tokio::time::timeout(PATIENCE, question).await? {
        Err(error) => Ok(error.kind() != RequestErrorKind::NoResponders),
        Ok(_) => Ok(true),
    }
}
