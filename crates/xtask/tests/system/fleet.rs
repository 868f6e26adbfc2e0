//! The status service with real consumers, told apart by how they end.

use serde_json::Value;
use test_support::DEADLINE;

use crate::fixture::{Fixture, processed, said, says, sleep, stop};

fn fleet(consumers: usize, missing: usize, total: u64) -> impl Fn(&Value) -> bool {
    move |line| {
        line["consumers"] == consumers && line["missing"] == missing && line["processed"] == total
    }
}

#[tokio::test]
async fn counts_agree_and_who_stops_has_left_and_who_is_killed_is_missing() {
    let fixture = Fixture::start().await;
    let _steady = fixture.consumer("steady", &[]).await;
    let mut leaver = fixture.consumer("leaver", &[]).await;
    let mut mortal = fixture.consumer("mortal", &[]).await;
    let mut service = fixture.status_service(&["--timeout", "300ms", "--gone-after", "2s"]);

    let run = fixture.bulk((0..300).map(|_| sleep(1)), &[]);
    run.all_succeed(DEADLINE).await;
    let statuses = fixture.statuses(3).await;
    assert_eq!(processed(statuses.values()), 300);
    says(&service, "fleet", fleet(3, 0, 300)).await;

    stop(&mut leaver).await;
    let left = says(&service, "consumer left", |_| true).await;
    assert_eq!(left["consumer"], r#""leaver""#);
    assert_eq!(left["processed"], statuses["leaver"].totals.processed);
    says(&service, "fleet", fleet(2, 0, 300)).await;
    assert!(said(&service, "consumer is missing").is_empty());

    mortal.kill().await;
    says(&service, "fleet", fleet(1, 1, 300)).await;
    let gone = says(&service, "consumer is gone, its counts stay", |_| true).await;
    assert_eq!(gone["consumer"], r#""mortal""#);
    assert_eq!(gone["processed"], statuses["mortal"].totals.processed);
    says(&service, "fleet", fleet(1, 0, 300)).await;

    // Those who come take part at once, and what was done before is kept.
    let _new = fixture.consumer("new", &[]).await;
    let run = fixture.bulk((0..100).map(|_| sleep(1)), &[]);
    run.all_succeed(DEADLINE).await;
    says(&service, "fleet", fleet(2, 0, 400)).await;

    stop(&mut service).await;
    let lines = said(&service, "fleet");
    let totals: Vec<_> = lines
        .iter()
        .map(|line| line["processed"].as_u64())
        .collect();
    assert!(totals.is_sorted(), "{totals:?}");
    let missing = said(&service, "consumer is missing");
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0]["consumer"], r#""mortal""#);
    for once in ["consumer left", "consumer is gone, its counts stay"] {
        assert_eq!(said(&service, once).len(), 1, "{once}");
    }
    assert_eq!(said(&service, "stopped asking")[0]["processed"], 400);
}
