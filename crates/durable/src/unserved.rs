//! Finds jobs that wait although nobody serves their kind.
//!
//! What consumers are done with is removed from the stream, so such jobs end up in front. They are
//! looked for there, among a bounded number of the oldest jobs.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::RequestErrorKind;
use bootstrap::{Beat, Client};
use bytes::Bytes;
use common::{JobKind, subjects};
use tracing::{debug, info, warn};

use crate::api::{ApiError, PATIENCE};
use crate::direct;
use crate::intake::Place;
use crate::lane::Shared;
use crate::topology::Stream;

/// How often they are looked for.
const PERIOD: Duration = Duration::from_secs(10);

/// How long a look may take: it asks for each kind that is found.
const LOOK: Duration = Duration::from_mins(1);

/// How many of the oldest jobs are looked at.
const OLDEST: usize = 64;

/// How many bytes they may have together.
const MOST_BYTES: usize = 256 * 1024;

pub(crate) async fn look(shared: Arc<Shared>, mut life: Beat) {
    loop {
        match life.during(LOOK, unserved(&shared)).await {
            Ok(kinds) => tell(&shared, kinds),
            Err(error) => debug!("cannot look for jobs that nobody serves: {error:#}"),
        }
        // Consumers of a fleet that were started together do not look at the same moment.
        let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
        life.during(wait, tokio::time::sleep(wait)).await;
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
                && !is_served(&shared.client, &kind).await?
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
    match direct::some(&shared.client, stream, filter, 1, OLDEST, MOST_BYTES).await {
        Ok(jobs) => {
            let places = jobs.iter().filter_map(|job| Place::of(&job.subject));
            Ok(places.map(|place| place.kind).collect())
        }
        // There are none in a stream that is not there.
        Err(ApiError::NoJetStream(_) | ApiError::Refused { .. }) => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a consumer is there that serves a kind.
pub(crate) async fn is_served(client: &Client, kind: &JobKind) -> anyhow::Result<bool> {
    let question = client.request(subjects::serves_kind(kind), Bytes::new());
    match tokio::time::timeout(PATIENCE, question).await? {
        Err(error) => Ok(error.kind() != RequestErrorKind::NoResponders),
        Ok(_) => Ok(true),
    }
}
