//! What people and programs see of messages whose headers cannot be read.

use std::collections::BTreeMap;

use common::{JobId, JobRecord, JobState, subjects};
use serde_json::{Value, json};
use test_support::{HttpAnswer, NatsServer, Service};

use crate::fixture::stop;
use crate::lane::Lane;
use crate::poison::{UNREADABLE, durable_job};
use crate::raw::RawUser;

struct Gateway {
    address: String,
    /// Ends with this.
    _service: Service,
}

impl Gateway {
    async fn start(server: &NatsServer) -> Self {
        let mut service = Service::named("gateway")
            .envs(server.env_for("gateway"))
            .args(["--listen", "127.0.0.1:0"])
            .start();
        let line = service
            .wait_for_line(|line| line.contains("serving http://"))
            .await;
        let address = line.split_once("serving http://").unwrap().1;
        let address = address.split([' ', '/']).next().unwrap().to_owned();
        Self {
            address,
            _service: service,
        }
    }

    async fn ask(&self, method: &str, path: &str) -> HttpAnswer {
        test_support::http(method, &self.address, path)
            .await
            .unwrap()
    }

    /// What is answered with 200.
    async fn get(&self, path: &str) -> String {
        let answer = self.ask("GET", path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).unwrap()
    }

    /// All that a list names, page by page.
    async fn all(&self, list: &str, field: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut path = list.to_owned();
        loop {
            let page = self.json(&path).await;
            all.extend(page[field].as_array().unwrap().iter().cloned());
            let Some(cursor) = page["next"].as_str() else {
                return all;
            };
            path = format!("{list}&cursor={cursor}");
        }
    }
}

fn ids_of(list: &[Value]) -> Vec<JobId> {
    let mut ids: Vec<JobId> = list
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().parse().unwrap())
        .collect();
    ids.sort();
    ids
}

/// What somebody at a terminal is told; it must succeed.
async fn terminal(server: &NatsServer, arguments: &[&str]) -> String {
    let mut operator = Service::named("jobs")
        .envs(server.env_for("operator"))
        .args(arguments)
        .start();
    let code = operator.wait().await.code();
    let text = operator.stdout().join("\n");
    assert_eq!(
        code,
        Some(0),
        "{arguments:?}: {text} {:?}",
        operator.stderr()
    );
    text
}

#[tokio::test]
async fn lists_and_look_ups_show_unreadable_messages_among_others() {
    const EACH: usize = 20;
    let lane = Lane::start().await;
    let server = &lane.fixture.server;
    // It makes the streams.
    stop(&mut lane.consumer("first", &[]).await).await;
    let mut user = RawUser::log_in(server, "publisher").await;
    let mut ids = Vec::new();
    for _ in 0..EACH {
        for (_, headers) in UNREADABLE {
            let id = JobId::generate();
            user.store(&durable_job(id, headers)).await.unwrap();
            ids.push(id);
            ids.push(lane.submit(json!({"kind": "echo"})).await);
        }
    }
    ids.sort();

    let gateway = Gateway::start(server).await;
    let queued = gateway.all("/v1/jobs?state=queued&limit=50", "jobs").await;
    assert_eq!(ids_of(&queued), ids);
    let told = gateway.json("/v1/queues").await;
    assert_eq!(told["waiting"], ids.len(), "{told}");
    for (what, headers) in UNREADABLE {
        let id = JobId::generate();
        user.store(&durable_job(id, headers)).await.unwrap();
        ids.push(id);
        let job = gateway.json(&format!("/v1/jobs/{id}?job=true")).await;
        assert_eq!(job["state"], "queued", "{what}: {job}");
        gateway.get(&format!("/jobs/{id}")).await;
        let told = terminal(server, &["info", &id.to_string()]).await;
        assert!(told.contains("queued"), "{what}: {told}");
    }
    // Both wait for a consumer that carries it out, and say so when none does.
    let mut cancelled = Vec::new();
    for (_, headers) in &UNREADABLE[..2] {
        let id = JobId::generate();
        user.store(&durable_job(id, headers)).await.unwrap();
        cancelled.push(id);
    }
    let path = format!("/v1/jobs/{}", cancelled[0]);
    let other = cancelled[1].to_string();
    let cancel = ["cancel", &other];
    let (answer, _) = tokio::join!(gateway.ask("DELETE", &path), terminal(server, &cancel));
    assert_eq!(answer.status, 202, "{answer:?}");
    gateway.get("/jobs?state=queued").await;
    gateway.get("/").await;

    let mut consumer = lane.consumer("a", &[]).await;
    let ended = lane.all_end(&ids, test_support::DEADLINE).await;
    let dead = |ended: &BTreeMap<JobId, JobRecord>| {
        let dead = ended
            .iter()
            .filter(|(_, record)| record.state == JobState::Dead);
        dead.map(|(id, _)| *id).collect::<Vec<_>>()
    };
    let not_run = lane.all_end(&cancelled, test_support::DEADLINE).await;
    for (id, record) in &not_run {
        // A consumer that is slow to hear of it buries it first.
        let ended = [JobState::Cancelled, JobState::Dead];
        assert!(ended.contains(&record.state), "{id}: {record:?}");
    }
    let (mut dead, buried) = (dead(&ended), dead(&not_run));
    assert_eq!(dead.len(), (EACH + 1) * UNREADABLE.len());
    dead.extend(buried);
    dead.sort();
    let list = "/v1/dead-letters?reason=unreadable_headers&limit=50";
    assert_eq!(ids_of(&gateway.all(list, "letters").await), dead);
    let id = dead[0];
    let letter = gateway.json(&format!("/v1/dead-letters/{id}")).await;
    assert_eq!(letter["reason"], "unreadable_headers", "{letter}");
    assert!(
        letter["headers"][subjects::UNREADABLE_HEADER].is_array(),
        "{letter}"
    );
    assert!(
        gateway
            .get(&format!("/dead/{id}"))
            .await
            .contains("headers cannot be read")
    );
    assert!(
        gateway
            .get("/dead")
            .await
            .contains("headers cannot be read")
    );
    let told = terminal(server, &["dead", "show", &id.to_string()]).await;
    assert!(told.contains(subjects::UNREADABLE_HEADER), "{told}");
    let listed = ["dead", "list", "--reason", "unreadable_headers", "--json"];
    let listed = terminal(server, &[&listed[..], &["--limit", "1000"]].concat()).await;
    assert_eq!(listed.lines().count(), dead.len());
    // Without the headers it is a job like any other.
    let replay = format!("/v1/dead-letters/{id}/replay");
    let answer = gateway.ask("POST", &replay).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    lane.becomes(id, JobState::Succeeded).await;
    stop(&mut consumer).await;
}
