//! The system in containers, as `docker-compose up --build` starts it: from the build to the exit
//! code of each service.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
#[path = "../observer/mod.rs"]
mod observer;
mod over_http;
mod project;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use test_support::eventually;
use tokio::sync::Mutex;

use crate::observer::{Observer, processed};
use crate::project::{Container, Project, inspect};

/// Health checks come every ten seconds, and a build machine may have other things to do.
const LONGEST: Duration = Duration::from_mins(3);

/// What is tested here does not depend on how fast the programs are.
const QUICK_BUILD: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
];

/// One system at a time: the second one finds the images of the first one in the cache.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Jobs that are given to the running system as README.md says: one of them starts a program.
const BY_HAND: [&str; 3] = [
    r#"{"kind": "echo", "payload": [1, 2.50, "grüße"]}"#,
    r#"{"kind": "sha256", "payload": {"text": "abc"}}"#,
    r#"{"kind": "checksum", "payload": "abc"}"#,
];

#[tokio::test]
#[ignore = "builds images, needs Docker: cargo xtask test runs it"]
async fn the_system_comes_up_shares_the_jobs_scales_and_goes_down() {
    let _alone = ALONE.lock().await;
    let load = [
        ("PUBLISHER_INTERVAL", "20ms"),
        ("STATUS_INTERVAL", "500ms"),
        ("LOG_FORMAT", "json"),
    ];
    let project = Project::new(&[&load[..], &QUICK_BUILD].concat());
    project.up(&["--build", "--scale", "consumer=4"]);
    become_healthy(&project, 8).await;
    for container in project.containers() {
        is_hardened(&project, &container);
    }

    let observer = Observer(project.connect_as("status").await);
    observer.statuses(4, |it| it.totals.processed > 0).await;
    run_by_hand(&project);
    submit_by_hand(&project);
    submit_by_an_application(&project);
    let over_http = over_http::run(&project).await;
    let first = stop_publisher(&project);
    let by_hand = BY_HAND.len() as u64 + 2 + over_http;
    agree(&project, &observer, 4, first + by_hand).await;
    say_their_own_names(&project, &observer).await;

    project.compose(&["start", "publisher"]);
    project.up(&["--no-recreate", "--scale", "consumer=2"]);
    jobs_go_on_with(&project, 2).await;
    assert_eq!(said(&project, "consumer left").len(), 2);
    project.up(&["--no-recreate", "--scale", "consumer=5"]);
    jobs_go_on_with(&project, 5).await;
    observer.statuses(5, |it| it.totals.processed > 0).await;

    let second = stop_publisher(&project);
    let all = first + by_hand + second;
    says(&project, "fleet", |line| {
        line["consumers"] == 5 && line["missing"] == 0 && line["processed"] == all
    })
    .await;
    let totals = said(&project, "fleet");
    let totals: Vec<_> = totals
        .iter()
        .map(|line| line["processed"].as_u64())
        .collect();
    assert!(totals.is_sorted(), "{totals:?}");
    assert!(said(&project, "consumer is missing").is_empty());

    project.compose(&["stop"]);
    let containers = project.containers();
    assert_eq!(containers.len(), 9);
    for container in containers {
        // Who does not stop within the grace period is killed, and that is 137.
        let code = &container.inspect()["State"]["ExitCode"];
        assert_eq!(*code, 0, "exit code of {}", container.service);
    }
}

/// Waits until all containers are, by their own health checks.
async fn become_healthy(project: &Project, count: usize) {
    let what = format!("{count} healthy containers");
    eventually(LONGEST, &what, async || {
        let containers = project.containers();
        let healthy = |it: &Container| it.inspect()["State"]["Health"]["Status"] == "healthy";
        (containers.len() == count && containers.iter().all(healthy)).then_some(())
    })
    .await;
}

/// What docker was told, and what became of it inside.
fn is_hardened(project: &Project, container: &Container) {
    let service = &container.service;
    let facts = container.inspect();
    let host = &facts["HostConfig"];
    assert_eq!(facts["Config"]["User"], "65532:65532", "{service}");
    assert_eq!(host["ReadonlyRootfs"], true, "{service}");
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{service}");
    assert_eq!(host["Privileged"], false, "{service}");
    assert_eq!(host["Init"], true, "{service}");
    let options = host["SecurityOpt"].as_array().unwrap();
    assert!(
        options.contains(&"no-new-privileges:true".into()),
        "{service}: {options:?}"
    );
    for limit in ["Memory", "PidsLimit"] {
        assert!(host[limit].as_i64() > Some(0), "{service} has no {limit}");
    }

    let status = container.exec(&["cat", "/proc/1/status"]).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{service}: no {name} in {status}"));
        line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    for ids in ["Uid:", "Gid:"] {
        assert_eq!(value(ids), "65532 65532 65532 65532", "{service}");
    }
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{service}: {set}");
    }
    assert_eq!(value("NoNewPrivs:"), "1", "{service}");
    let refusal = container.exec(&["touch", "/a-file"]).unwrap_err();
    assert!(refusal.contains("Read-only file system"), "{refusal}");

    let networks = facts["NetworkSettings"]["Networks"].as_object().unwrap();
    let jobs = project.network("jobs");
    assert_eq!(inspect(&jobs)["Internal"], true);
    let published = facts["NetworkSettings"]["Ports"].as_object().unwrap();
    let published: Vec<_> = published
        .iter()
        .filter_map(|(port, bindings)| Some((port, bindings.as_array()?)))
        .collect();
    let open = match service.as_str() {
        "nats" => Some(("4222/tcp", project.port)),
        "gateway" => Some(("8080/tcp", project.gateway_port)),
        _ => None,
    };
    if let Some((inside, port)) = open {
        let here = serde_json::json!({"HostIp": "127.0.0.1", "HostPort": port.to_string()});
        assert_eq!(published, [(&inside.to_owned(), &vec![here])]);
    } else {
        assert!(published.is_empty(), "{service}: {published:?}");
        assert_eq!(networks.keys().collect::<Vec<_>>(), [&jobs], "{service}");
    }
}

/// A file of jobs goes in, and their outcomes come out, as README.md says.
fn run_by_hand(project: &Project) {
    let run = ["run", "--rm", "--no-deps", "-T", "publisher"];
    let bulk = ["--input", "-", "--output", "-"];
    let outcomes = project.compose_with_input(&[&run[..], &bulk].concat(), &BY_HAND.join("\n"));
    let mut outcomes: Vec<Value> = outcomes
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    outcomes.sort_by_key(|outcome| outcome["line"].as_u64());
    assert!(
        outcomes.iter().all(|it| it["status"] == "succeeded"),
        "{outcomes:?}"
    );
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let results: Vec<_> = outcomes.iter().map(|outcome| &outcome["result"]).collect();
    assert_eq!(
        results,
        [
            &serde_json::json!([1, 2.50, "grüße"]),
            &serde_json::json!({"hex": hash}),
            &serde_json::json!(format!("{hash}  -")),
        ]
    );
}

/// A durable job is submitted and waited for at a terminal, as the guide says.
fn submit_by_hand(project: &Project) {
    // Else `run` builds the image, and says so on standard output.
    project.compose(&["build", "jobs"]);
    let submit = ["submit", "--kind", "echo", "--payload", "[1.50]", "--wait"];
    let run = ["run", "--rm", "-T", "jobs", "--json"];
    let record = project.compose(&[&run[..], &submit].concat());
    let record: Value =
        serde_json::from_str(&record).unwrap_or_else(|error| panic!("{error}: {record}"));
    assert_eq!(record["state"], "succeeded", "{record}");
    assert_eq!(record["result"], serde_json::json!([1.50]), "{record}");
}

/// A program of a user, outside of the containers, submits a typed job and prints its typed result.
fn submit_by_an_application(project: &Project) {
    let mut program = std::process::Command::new(test_support::example("client", "submit"));
    let output = program
        .envs(project.env_for("application"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.starts_with("ba7816bf8f01cfea"), "{said}");
}

/// How many jobs it has brought to a good end since it was started; none may have ended otherwise.
fn stop_publisher(project: &Project) -> u64 {
    project.compose(&["stop", "publisher"]);
    let summary = last_words(project);
    let succeeded = summary["succeeded"].as_u64().unwrap();
    assert!(succeeded > 0, "{summary}");
    assert_eq!(summary["submitted"], succeeded, "{summary}");
    succeeded
}

/// The summary of the publisher, which has stopped as it should.
fn last_words(project: &Project) -> Value {
    let [publisher] = &project.containers_of("publisher")[..] else {
        panic!("there is one publisher");
    };
    assert_eq!(publisher.inspect()["State"]["ExitCode"], 0);
    let lines = publisher.logs().into_iter();
    let mut summaries = lines.filter(|line| line["message"] == "summary");
    let last = summaries.next_back();
    last.expect("the last words of a publisher are a summary")
}

/// What publishers saw succeed, what consumers say that they did, and what the status service
/// counts is the same.
async fn agree(project: &Project, observer: &Observer, consumers: usize, jobs: u64) {
    let statuses = observer.statuses(consumers, |_| true).await;
    assert_eq!(processed(statuses.values()), jobs);
    says(project, "fleet", |line| {
        line["consumers"] == consumers && line["processed"] == jobs
    })
    .await;
}

/// Every line of a consumer is under the name that it answers with.
async fn say_their_own_names(project: &Project, observer: &Observer) {
    let consumers = project.containers_of("consumer");
    let statuses = observer.statuses(consumers.len(), |_| true).await;
    let mut names = BTreeSet::new();
    for consumer in &consumers {
        let (name, _) = statuses
            .iter()
            .find(|(_, status)| consumer.id.starts_with(&status.host))
            .expect("a consumer tells its host name, which is the container's");
        let lines = consumer.logs();
        assert!(lines.iter().any(|line| line["message"] == "job succeeded"));
        for line in lines {
            assert_eq!(line["instance"], **name, "{line}");
        }
        names.insert(name);
    }
    assert_eq!(names.len(), consumers.len());
}

/// Waits until so many consumers, and no others, have done some more jobs.
async fn jobs_go_on_with(project: &Project, consumers: usize) {
    let before = |line: &Value| line["consumers"] == consumers && line["missing"] == 0;
    let line = says_from_now_on(project, "fleet", before).await;
    let before = line["processed"].as_u64().unwrap();
    says(project, "fleet", |line| {
        line["consumers"] == consumers && line["processed"].as_u64() >= Some(before + 50)
    })
    .await;
}

/// What the status service has said with this message.
fn said(project: &Project, message: &str) -> Vec<Value> {
    let [status_service] = &project.containers_of("status-service")[..] else {
        panic!("there is one status service");
    };
    let lines = status_service.logs().into_iter();
    lines.filter(|line| line["message"] == message).collect()
}

/// Waits until the status service has said this, as wanted.
async fn says(project: &Project, message: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let what = format!("a line {message:?} of the status service that was asked for");
    eventually(LONGEST, &what, async || {
        said(project, message).into_iter().find(|line| wanted(line))
    })
    .await
}

/// As [`says`], but what was said before does not count.
async fn says_from_now_on(
    project: &Project,
    message: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let before = said(project, message).len();
    let what = format!("a new line {message:?} of the status service that was asked for");
    eventually(LONGEST, &what, async || {
        let lines = said(project, message).into_iter().skip(before);
        lines.into_iter().find(|line| wanted(line))
    })
    .await
}
