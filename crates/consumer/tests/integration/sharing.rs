//! Consumers share jobs as one queue group.

use std::collections::{BTreeMap, BTreeSet};

use common::Outcome;
use futures_util::{StreamExt as _, stream};

use crate::fixture::Fixture;

const JOBS: usize = 10_000;

#[tokio::test]
async fn four_consumers_share_10_000_jobs_evenly_and_each_job_reaches_one() {
    let fixture = Fixture::start().await;
    let mut consumers = Vec::new();
    for _ in 0..4 {
        consumers.push(fixture.consumer(&[]).await);
    }
    let outcomes: Vec<Outcome> = stream::iter(0..JOBS)
        .map(|number| {
            let job = format!(r#"{{"kind":"echo","payload":{number}}}"#);
            let fixture = &fixture;
            async move { fixture.outcome(&job).await }
        })
        .buffer_unordered(64)
        .collect()
        .await;

    let numbers: BTreeSet<_> = outcomes
        .iter()
        .map(|o| o.result.as_ref().unwrap().get().to_owned())
        .collect();
    assert_eq!(numbers.len(), JOBS);
    let mut shares = BTreeMap::<&str, u64>::new();
    for outcome in &outcomes {
        *shares.entry(&outcome.consumer).or_default() += 1;
    }
    // NATS picks a member at random for each job: a share is binomial with n = 10,000 and
    // p = 1/4, its standard deviation is sqrt(n p (1 - p)) = 43.3. Five of them around 2,500 are
    // missed by one run in about 400,000.
    assert_eq!(shares.len(), 4, "{shares:?}");
    for share in shares.values() {
        assert!((2_283..=2_717).contains(share), "{shares:?}");
    }

    let statuses = fixture.statuses(4).await;
    let counted: BTreeMap<&str, u64> = statuses
        .iter()
        .map(|status| (&*status.consumer, status.totals.processed))
        .collect();
    assert_eq!(
        counted, shares,
        "what the consumers counted, and what was answered"
    );
}
