//! The cluster of `deploy/cluster/compose.yml`, in which each server is killed once, under load.

use std::collections::BTreeSet;
use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};
use test_support::{DEADLINE, eventually};

use crate::over_http::Gateway;
use crate::project::Project;
use crate::{ALONE, LONGEST, QUICK_BUILD, become_healthy, last_words};

const SERVERS: [&str; 3] = ["nats", "nats-2", "nats-3"];

/// The most jobs on a page of the list.
const PAGE: usize = 200;

#[tokio::test]
#[ignore = "builds images, needs Docker: cargo xtask test runs it"]
async fn no_job_is_lost_while_each_server_of_a_cluster_is_killed_once() {
    let _alone = ALONE.lock().await;
    let load = [
        ("PUBLISHER_DELIVERY", "durable"),
        ("PUBLISHER_INTERVAL", "50ms"),
        ("LOG_FORMAT", "json"),
    ];
    let project = Project::cluster(&[&load[..], &QUICK_BUILD].concat());
    project.up(&["--build", "--scale", "consumer=4"]);
    become_healthy(&project, 10).await;

    let gateway = Gateway::of(&project);
    let mut submitted = BTreeSet::new();
    for server in SERVERS {
        project.compose(&["kill", "-s", "SIGKILL", server]);
        let since = Instant::now();
        let [killed] = &project.containers_of(server)[..] else {
            panic!("there is one {server}");
        };
        assert_eq!(killed.inspect()["State"]["ExitCode"], 137, "{server}");
        submitted.insert(succeeds(&gateway).await);
        println!("{server} was killed: a job took {:?}", since.elapsed());
        project.compose(&["start", server]);
        become_healthy(&project, 10).await;
        submitted.insert(succeeds(&gateway).await);
    }

    project.compose(&["stop", "publisher"]);
    let summary = last_words(&project);
    let stored = summary["stored"].as_u64().unwrap() + summary["known_before"].as_u64().unwrap();
    assert_eq!(summary["submitted"], stored, "{summary}");
    let count = usize::try_from(stored).unwrap() + submitted.len();
    let ended = eventually(DEADLINE, "the end of all jobs", async || {
        let ended = all_that_succeeded(&gateway).await?;
        (ended.len() >= count).then_some(ended)
    })
    .await;
    println!("{count} jobs, none lost");
    assert_eq!(ended.len(), count, "{summary}");
    assert!(ended.is_superset(&submitted));
}

/// Submits a job, again and again until it is known to have succeeded; its id.
async fn succeeds(gateway: &Gateway) -> String {
    let id = common::JobId::generate().to_string();
    let job = json!({"id": id, "kind": "echo", "payload": 1});
    eventually(LONGEST, "a job that succeeds", async || {
        let submission = gateway.json(Method::POST, "/v1/jobs?wait=30s", Some(job.clone()));
        let (status, ended) = submission.await;
        (status == 200 && ended["state"] == "succeeded").then_some(())
    })
    .await;
    id
}

/// The ids of all jobs that succeeded; `None` if a page cannot be read.
async fn all_that_succeeded(gateway: &Gateway) -> Option<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/jobs?state=succeeded&limit={PAGE}{cursor}");
        let (status, page) = gateway.json(Method::GET, &path, None).await;
        if status != 200 {
            return None;
        }
        let jobs = page["jobs"].as_array().unwrap().iter();
        ids.extend(jobs.map(|job| job["id"].as_str().unwrap().to_owned()));
        match &page["next"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            _ => return Some(ids),
        }
    }
}
