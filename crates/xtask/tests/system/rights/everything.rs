//! A run in which every service does all that it can.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use client::{SubmitError, Topology};
use common::{JobId, Timestamp};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, eventually};

use super::web::Web;
use super::{backup, recorded};
use crate::fixture::{Fixture, Sleep, stop};

const HANDLERS: &str = r#"
[handlers."ask"]
nats = "handlers.ask"
keep = "failures"

[handlers."kill"]
exec = ["/bin/sh", "-c", "kill -9 $PPID"]
stdin = "none"
"#;

/// All services, which have done what they can, and still run.
pub(crate) struct System {
    fixture: Fixture,
    /// May do everything, and is none of the services.
    admin: Client,
    handlers: String,
    consumers: Vec<Service>,
    others: Vec<Service>,
}

/// Starts all services, and has them do what they can.
pub(crate) async fn run() -> System {
    let server = NatsServer::builder().config("trace: true").start().await;
    let fixture = Fixture::on(server).await;
    let mut system = System {
        admin: fixture.server.connect_as("admin").await,
        handlers: fixture.handlers(HANDLERS),
        fixture,
        consumers: Vec::new(),
        others: Vec::new(),
    };
    system.a_consumer_ends_where_its_queue_is_another().await;
    // The two have one kind in common, so each passes jobs on to the other.
    let one = system.consumer("one", "echo,sleep,fail,ask").await;
    let two = system.consumer("two", "sha256,sleep").await;
    system.consumers = vec![one, two];
    let status = system.fixture.status_service(&[]);
    let (gateway, address) = system.fixture.gateway().await;
    let mut web = Web::at(&address);
    let publisher = system.publisher(&["--interval", "200ms"]);
    system.others = vec![status, gateway, publisher];

    let lost = system.a_consumer_is_killed().await;
    system.what_the_server_gives_up_is_buried().await;
    system.jobs_are_published().await;
    system.services_are_discovered().await;
    system.an_application_submits_jobs().await;
    system.an_operator_sees_to_jobs(&mut web).await;
    System::the_gateway_is_given_unique_jobs(&mut web).await;
    system.the_gateway_is_asked(&mut web).await;
    a_priority_is_heeded(&mut web).await;
    system.a_schedule_replaces_its_jobs(&mut web).await;
    system.a_kind_is_paused().await;
    system.long_and_late_jobs(&mut web).await;
    system.a_durable_consumer_is_deleted(&mut web).await;
    for service in system.consumers.iter_mut().chain(&mut system.others) {
        service.scrape().await;
    }
    web.becomes(lost, "dead").await;
    system.fixture.server.stop().await;
    system.fixture.server.start_again().await;
    web.job_after_an_outage().await;
    system
}

impl System {
    pub(crate) fn log(&self) -> String {
        self.fixture.server.log()
    }

    /// Stops all services, consumers in the middle of a job; the server's log.
    pub(crate) async fn stop(mut self) -> String {
        let mut publisher = self.others.pop().unwrap();
        stop(&mut publisher).await;
        let job = json!({"kind": "sleep", "payload": {"ms": 60_000}, "timeout": "2m"});
        let id = self.submit(job).await;
        let events = self.admin.subscribe(format!("jobs.events.{id}")).await;
        let mut events = events.unwrap();
        let running = tokio::time::timeout(DEADLINE, events.next()).await;
        assert!(running.is_ok(), "the job does not run");
        for service in self.consumers.iter_mut().chain(&mut self.others) {
            stop(service).await;
        }
        self.a_backup_is_restored().await;
        self.log()
    }

    /// Makes a backup of what all services have stored, and restores it, with all that may have changed meanwhile.
    async fn a_backup_is_restored(&self) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("backup");
        let path = folder.to_str().unwrap();
        let told = self.operate(&["backup", path]).await;
        assert!(told.contains("JOBS_STATE"), "{told}");
        backup::change_everything(&folder);
        let restore = Service::named("jobs").envs(self.fixture.server.env_for("restore"));
        let mut restore = restore
            .args(["restore", path, "--replace", "--yes"])
            .start();
        assert!(restore.wait().await.success(), "{:?}", restore.stderr());
    }

    async fn consumer(&self, name: &str, kinds: &str) -> Service {
        let arguments = [
            "--handlers",
            &self.handlers,
            "--kinds",
            kinds,
            "--grace",
            "2s",
        ];
        let mut consumer = self.fixture.consumer(name, &arguments).await;
        consumer
            .wait_for_line(|line| line.contains("taking durable jobs"))
            .await;
        consumer
    }

    fn publisher(&self, arguments: &[&str]) -> Service {
        self.fixture.publisher().args(arguments).start()
    }

    /// A run of the publisher that ends by itself; what it says of its jobs is not asked.
    async fn publish(&self, arguments: &[&str], input: &str) {
        let publisher = self.fixture.publisher().args(arguments);
        publisher.input(input).start().wait().await;
    }

    /// What a person does at a terminal; the exit code is not asked.
    async fn operate(&self, arguments: &[&str]) -> String {
        let operator = Service::named("jobs").envs(self.fixture.server.env_for("operator"));
        let mut operator = operator.args(arguments).start();
        operator.wait().await;
        operator.stdout().join("\n")
    }

    /// Stores a job as nobody that is looked at.
    async fn submit(&self, mut job: Value) -> JobId {
        let id = JobId::generate();
        job["id"] = json!(id);
        let kind = job["kind"].as_str().unwrap().to_owned();
        let subject = format!("jobs.durable.{id}.normal.1.{kind}");
        self.ask(&subject, job).await;
        id
    }

    /// Asks JetStream; it has to do what it is asked for.
    async fn ask(&self, subject: &str, question: Value) -> Value {
        let question = if question.is_null() {
            Bytes::new()
        } else {
            question.to_string().into()
        };
        let answer = self.admin.request(subject.to_owned(), question).await;
        let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        assert!(answer["error"].is_null(), "{subject}: {answer}");
        answer
    }

    /// Makes a durable consumer by hand.
    async fn make(&self, stream: &str, name: &str, filter: Option<&str>) {
        let config = json!({
            "durable_name": name, "ack_policy": "explicit", "max_deliver": 2,
            "filter_subject": filter,
        });
        let request = json!({"stream_name": stream, "config": config, "action": "create"});
        let create = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}");
        self.ask(&create, request).await;
    }

    async fn a_consumer_ends_where_its_queue_is_another(&self) {
        let topology = Topology::default();
        topology.ensure(&self.admin.clone().into()).await.unwrap();
        self.make("JOBS_ADVISORIES", "given-up", None).await;
        let mut consumer = Service::named("consumer")
            .envs(self.fixture.server.env_for("worker"))
            .args(["--durable", "required"])
            .start();
        consumer
            .wait_for_line(|line| line.contains("given-up") && line.contains("max_deliver"))
            .await;
        consumer.kill().await;
        let delete = "$JS.API.CONSUMER.DELETE.JOBS_ADVISORIES.given-up";
        self.ask(delete, Value::Null).await;
    }

    /// Its job, which is dead once another consumer has got it.
    async fn a_consumer_is_killed(&mut self) -> JobId {
        let mut consumer = self.consumer("three", "kill").await;
        let id = self
            .submit(json!({"kind": "kill", "max_attempts": 1}))
            .await;
        consumer.wait().await;
        let four = self.consumer("four", "kill").await;
        self.consumers.push(four);
        id
    }

    async fn what_the_server_gives_up_is_buried(&self) {
        for (stream, first) in [("JOBS", "jobs.durable"), ("JOBS_LATER", "jobs.due")] {
            let filter = format!("{first}.*.*.*.given.up");
            self.make(stream, "given=up", Some(&filter)).await;
            let id = JobId::generate();
            let subject = format!("{first}.{id}.normal.1.given.up");
            self.ask(&subject, json!({"kind": "given.up"})).await;
            let inbox = self.admin.new_inbox();
            let mut messages = self.admin.subscribe(inbox.clone()).await.unwrap();
            let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.given=up");
            let pull = self.admin.publish_with_reply(next, inbox, "".into());
            pull.await.unwrap();
            let message = tokio::time::timeout(DEADLINE, messages.next()).await;
            let reply = message.unwrap().unwrap().reply.unwrap();
            self.admin.publish(reply, "+TERM".into()).await.unwrap();
        }
    }

    async fn jobs_are_published(&self) {
        let fast = ["--interval", "0s", "--count", "20"];
        let with = |more: &[&'static str]| [&fast[..], more].concat();
        self.publish(&with(&["--delivery", "fire-and-forget"]), "")
            .await;
        self.publish(
            &with(&["--kind", "sha256", "--payload", "{\"text\":\"\"}"]),
            "",
        )
        .await;
        self.publish(&with(&["--by-kind"]), "").await;
        let nobody = ["--count", "1", "--kind", "nobody.serves"];
        self.publish(&nobody, "").await;
        let nobody = [&nobody[..], &["--by-kind", "--max-attempts", "2"]].concat();
        self.publish(&nobody, "").await;
        let durable =
            |more: &[&'static str]| [&fast[..], &["--delivery", "durable"], more].concat();
        self.publish(&durable(&[]), "").await;
        self.publish(&durable(&["--delay", "1s"]), "").await;
        let lines = "{\"kind\": \"echo\"}\n{\"kind\": \"ask\"}\n";
        let input = ["--input", "-", "--delivery", "durable"];
        self.publish(&input, lines).await;
        self.publish(&[&input[..], &["--all-or-none"]].concat(), lines)
            .await;
        let given = format!(r#"{{"kind": "echo", "id": "{}"}}"#, JobId::generate());
        self.publish(&input, &given).await;
        self.publish(&["--input", "-"], lines).await;
        let unique = json!({
            "kind": "sleep", "payload": {"ms": 2000}, "unique": {"key": "publisher"},
        });
        self.publish(&input, &format!("{unique}\n{unique}\n")).await;

        // What `nats` handlers ask is answered by a program that is none of the services.
        let mut questions = self.admin.subscribe("handlers.ask").await.unwrap();
        self.admin.flush().await.unwrap();
        let (admin, answer) = (self.admin.clone(), "\"answer\"");
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                if let Some(reply) = question.reply {
                    admin.publish(reply, answer.into()).await.unwrap();
                }
            }
        });
        self.publish(&with(&["--kind", "ask"]), "").await;
    }

    /// As the `nats` command line does as the user `status`.
    async fn services_are_discovered(&self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        let inbox = "_INBOX_status.discovery";
        let mut answers = self.admin.subscribe(inbox).await.unwrap();
        for verb in ["PING", "INFO", "STATS"] {
            let mut names = BTreeSet::new();
            let question = format!("$SRV.{verb}");
            eventually(
                DEADLINE,
                &format!("all services on {question}"),
                async || {
                    let question = question.clone();
                    let sent = self.admin.publish_with_reply(question, inbox, "".into());
                    sent.await.unwrap();
                    while let Ok(answer) = tokio::time::timeout(PATIENCE, answers.next()).await {
                        let answer: Value =
                            serde_json::from_slice(&answer.unwrap().payload).unwrap();
                        names.insert(answer["name"].as_str().unwrap().to_owned());
                        if names.len() == 4 {
                            return Some(());
                        }
                    }
                    None
                },
            )
            .await;
        }
    }

    /// As a program with the crate `client` does.
    async fn an_application_submits_jobs(&self) {
        let options = self.fixture.options("application");
        let jobs = client::Client::connect(options).await.unwrap();
        let handle = jobs.submit(Sleep { ms: 1 }).await.unwrap();
        handle.result().await.unwrap();
        jobs.confirmed(Sleep { ms: 1 }).await.unwrap();
        jobs.fire_and_forget(Sleep { ms: 1 }).await.unwrap();
        let later = jobs.submit(Sleep { ms: 1 });
        let later = later.delay(Duration::from_hours(1)).await.unwrap();
        let state = async || Some(later.record().await.unwrap()?.consumer?);
        eventually(DEADLINE, "a consumer to put the job off", state).await;
        later.cancel().await.unwrap();
        assert!(later.result().await.is_err());
        let first = jobs.submit(Sleep { ms: 2000 }).unique("application").await;
        let second = jobs.submit(Sleep { ms: 2000 }).unique("application").await;
        let holder = first.unwrap().id();
        assert!(matches!(second, Err(SubmitError::Conflict { holder: id, .. }) if id == holder));
    }

    async fn an_operator_sees_to_jobs(&self, web: &mut Web) {
        let queued = self
            .submit(json!({"kind": "nobody.serves"}))
            .await
            .to_string();
        let nobody = JobId::generate().to_string();
        for command in ["list", "queues", "fleet"] {
            let told = self.operate(&[command]).await;
            assert!(!told.is_empty(), "{command}");
        }
        let submitted = self.operate(&["submit", "--kind", "echo", "--wait"]).await;
        assert!(submitted.contains("succeeded"), "{submitted}");
        for _ in 0..2 {
            let payload = r#"{"ms": 2000}"#;
            self.operate(&[
                "submit",
                "--kind",
                "sleep",
                "--payload",
                payload,
                "--unique",
                "operator",
            ])
            .await;
        }
        for id in [&queued, &nobody] {
            self.operate(&["info", id]).await;
            self.operate(&["wait", id, "--timeout", "100ms"]).await;
            self.operate(&["cancel", id]).await;
        }
        let paused = self
            .operate(&["pause", "nobody.serves", "--for", "1h"])
            .await;
        assert!(paused.contains("is paused until"), "{paused}");
        let resumed = self.operate(&["resume", "nobody.serves"]).await;
        assert!(resumed.contains("is resumed"), "{resumed}");
        self.operate(&["run-now", &nobody]).await;
        let paused = self.operate(&["pause", "--all", "--for", "1s"]).await;
        assert!(paused.contains("all kinds are paused"), "{paused}");
        self.operate(&["resume", "--all"]).await;
        let heeded = self
            .operate(&["kinds", "set", "nobody.serves", "--priorities", "on"])
            .await;
        assert!(heeded.contains("are heeded"), "{heeded}");
        let listed = self.operate(&["kinds"]).await;
        assert!(listed.contains("nobody.serves"), "{listed}");
        let mut dead = Vec::new();
        for message in ["first", "second", "third", "fourth"] {
            let payload = json!({"message": message, "permanent": true});
            let job = json!({"kind": "fail", "payload": payload});
            let id = self.submit(job).await;
            web.becomes(id, "dead").await;
            dead.push(id.to_string());
        }
        let listed = self.operate(&["dead", "list", "--kind", "fail"]).await;
        assert!(dead.iter().all(|id| listed.contains(id)), "{listed}");
        let listed = self.operate(&["dead", "list", "--json"]).await;
        assert!(listed.contains(&dead[0]), "{listed}");
        let shown = self.operate(&["dead", "show", &dead[0]]).await;
        assert!(shown.contains("first"), "{shown}");
        let other = ["--payload", "{\"message\": \"other\"}"];
        self.operate(&[&["dead", "replay", &dead[0]], &other[..]].concat())
            .await;
        self.operate(&["dead", "discard", &dead[1]]).await;
        let reason = ["--all", "--yes", "--reason", "permanent"];
        let replay = [&["dead", "replay", "--rate", "50"], &reason[..]].concat();
        self.operate(&replay).await;
        self.operate(&[&["dead", "discard"], &reason[..]].concat())
            .await;
        self.operate(&["wait", &dead[0], "--timeout", "100ms"])
            .await;
    }

    async fn the_gateway_is_given_unique_jobs(web: &mut Web) {
        let unique = |on_conflict: &str| {
            json!({
                "kind": "sleep", "payload": {"ms": 2000},
                "unique": {"key": "gateway", "on_conflict": on_conflict},
            })
        };
        let (_, first) = web.post("/v1/jobs", unique("reject")).await;
        let (status, refused) = web.post("/v1/jobs", unique("reject")).await;
        assert_eq!(
            (status, &refused["holder"]),
            (409, &first["id"]),
            "{refused}"
        );
        let (status, kept) = web.post("/v1/jobs", unique("keep")).await;
        assert_eq!((status, &kept["id"]), (200, &first["id"]), "{kept}");
    }

    async fn the_gateway_is_asked(&self, web: &mut Web) {
        let good = json!({"kind": "sha256", "payload": {"text": "abc"}});
        let (status, record) = web.post("/v1/jobs?wait=1m", good.clone()).await;
        assert_eq!((status, &record["state"]), (200, &json!("succeeded")));
        let done = record["id"].as_str().unwrap().to_owned();
        for path in ["?delivery=confirmed", "?delivery=fire-and-forget"] {
            let (status, answer) = web.post(&format!("/v1/jobs{path}"), good.clone()).await;
            assert!((200..300).contains(&status), "{path}: {answer}");
        }
        let nobody = json!({"kind": "nobody.serves"});
        web.post("/v1/jobs?delivery=confirmed", nobody).await;
        many_are_posted(web).await;
        web.get(&format!("/v1/jobs/{done}/events")).await;
        let mut letters = Vec::new();
        for message in ["a", "b", "c", "d", "e", "f"] {
            let payload = json!({"message": message, "permanent": true});
            let job = json!({"kind": "fail", "payload": payload});
            let (_, record) = web.post("/v1/jobs?wait=1m", job).await;
            assert_eq!(record["state"], "dead");
            letters.push(record["id"].as_str().unwrap().to_owned());
        }
        let queued = self.submit(json!({"kind": "nobody.serves"})).await;
        let later = json!({"kind": "echo", "run_at": "2100-01-01T00:00:00Z"});
        let (_, later) = web.post("/v1/jobs", later).await;
        let later = later["id"].as_str().unwrap().to_owned();
        for path in [
            "/v1/jobs",
            "/v1/jobs?state=queued",
            "/v1/jobs?state=scheduled",
            "/v1/jobs?state=dead&kind=fail",
            &format!("/v1/jobs/{later}?job=true"),
            &format!("/v1/jobs/{later}/why"),
            "/v1/dead-letters",
            "/v1/dead-letters/groups",
            &format!("/v1/dead-letters/{}", letters[0]),
            &format!("/v1/dead-letters/{}/raw", letters[0]),
            "/v1/fleet",
            "/v1/streams",
            "/v1/queues",
            "/v1/kinds",
            "/openapi.json",
            "/docs",
            "/",
            "/consumers",
            "/jobs",
            &format!("/jobs/{later}"),
            "/dead",
            &format!("/dead/{}", letters[0]),
            "/dead/replay?kind=fail",
            "/dead/discard?kind=fail",
            "/jobs/cancel?kind=nobody.serves",
            "/jobs/run-now?kind=nobody.serves",
            "/schedules",
        ] {
            assert_eq!(web.get(path).await.0, 200, "{path}");
        }
        web.begins("/live").await;
        let replay = |id: &str| format!("/v1/dead-letters/{id}/replay");
        let payload = json!({"payload": {"message": "other"}});
        assert_eq!(web.post(&replay(&letters[0]), payload).await.0, 202);
        let discard = format!("/v1/dead-letters/{}", letters[1]);
        web.delete(&discard).await;
        web.form(&format!("/dead/{}/replay", letters[2]), "").await;
        web.form(&format!("/dead/{}/discard", letters[3]), "").await;
        web.post("/v1/dead-letters/replay?kind=fail&rate=100", Value::Null)
            .await;
        web.delete("/v1/dead-letters?kind=fail").await;
        for work in ["replay", "discard", "stop"] {
            web.form(&format!("/dead/{work}"), "kind=fail&rate=100")
                .await;
        }
        web.form(&format!("/jobs/{queued}/cancel"), "").await;
        web.becomes(queued, "cancelled").await;
        web.form("/jobs/cancel", "kind=nobody.serves&state=queued&expect=9")
            .await;
        for change in ["pause", "resume", "priorities"] {
            web.form(&format!("/kinds/nobody.serves/{change}"), "")
                .await;
        }
        for (change, body) in [
            ("pause", json!({"for": "1h"})),
            ("resume", Value::Null),
            ("priorities", Value::Null),
        ] {
            let path = format!("/v1/kinds/nobody.serves/{change}");
            let (status, answer) = web.post(&path, body).await;
            assert_eq!(status, 200, "{answer}");
        }
        all_is_paused_and_run_now(web, queued).await;
        the_gateway_is_asked_about_schedules(web).await;
        let many = "/v1/jobs/cancel?kind=nobody.serves&state=queued";
        let (status, answer) = web.post(many, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        web.delete(&format!("/v1/jobs/{later}")).await;
        web.becomes(later.parse().unwrap(), "cancelled").await;

        web.was_asked_for_all().await;
    }

    async fn a_schedule_replaces_its_jobs(&self, web: &mut Web) {
        let set = "schedules set tested --every 1s --overlap replace --kind sleep --timeout 1h";
        let mut set: Vec<_> = set.split(' ').collect();
        set.extend(["--payload", r#"{"ms": 600000}"#]);
        self.operate(&set).await;
        let first = eventually(DEADLINE, "the first tick", async || {
            let shown = self
                .operate(&["schedules", "show", "tested", "--json"])
                .await;
            let shown: Value = serde_json::from_str(&shown).unwrap();
            shown["last"]["id"].as_str()?.parse().ok()
        })
        .await;
        web.becomes(first, "cancelled").await;
        let paused = self
            .operate(&["schedules", "pause", "tested", "--json"])
            .await;
        let paused: Value = serde_json::from_str(&paused).unwrap();
        let last = paused["last"]["id"].as_str().unwrap();
        web.becomes(last.parse().unwrap(), "running").await;
        self.operate(&["cancel", last]).await;
        web.becomes(last.parse().unwrap(), "cancelled").await;
        self.operate(&["schedules", "delete", "tested"]).await;
    }

    /// Whoever pauses a kind stops half-way, so the consumers do the rest.
    async fn a_kind_is_paused(&self) {
        let at = Timestamp::now();
        let paused = json!({"paused": true, "at": at});
        self.ask("jobs.kind.sha256", paused).await;
        for stream in ["JOBS", "JOBS_LATER"] {
            let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.sha256");
            self.recorded("worker", &subject).await;
        }
        let resumed = json!({"paused": false, "at": at});
        self.ask("jobs.kind.sha256", resumed).await;
    }

    async fn long_and_late_jobs(&self, web: &mut Web) {
        // It holds back those that come after it, until it is cancelled.
        let long = json!({"kind": "sleep", "payload": {"ms": 600_000}, "timeout": "1h"});
        let long = self.submit(long).await;
        web.becomes(long, "running").await;
        let short = json!({"kind": "sleep", "payload": {"ms": 1}});
        for _ in 0..3 {
            let id = self.submit(short.clone()).await;
            web.becomes(id, "succeeded").await;
        }
        // Half of the waits are so long that the server keeps them.
        let fails = json!({
            "kind": "fail", "payload": {"message": "away"}, "max_attempts": 3,
            "backoff": {"initial": "2s"},
        });
        let mut failing = Vec::new();
        for _ in 0..8 {
            failing.push(self.submit(fails.clone()).await);
        }
        for id in failing {
            web.becomes(id, "dead").await;
        }
        self.recorded("worker", "$JS.API.STREAM.MSG.DELETE.JOBS")
            .await;
        self.operate(&["cancel", &long.to_string()]).await;
        web.becomes(long, "cancelled").await;
    }

    /// Waits until a user has published to a subject.
    async fn recorded(&self, user: &str, subject: &str) {
        let what = format!("{user} to publish to {subject}");
        eventually(DEADLINE, &what, async || {
            let recorded = recorded::read(&self.log());
            recorded[user].published.contains(subject).then_some(())
        })
        .await;
    }

    async fn a_durable_consumer_is_deleted(&self, web: &mut Web) {
        for stream in ["JOBS", "JOBS_LATER"] {
            let delete = format!("$JS.API.CONSUMER.DELETE.{stream}.echo");
            self.ask(&delete, Value::Null).await;
        }
        let id = self.submit(json!({"kind": "echo"})).await;
        web.becomes(id, "succeeded").await;
    }
}

async fn many_are_posted(web: &mut Web) {
    let many = json!([{"kind": "echo"}, {"kind": "ask"}]);
    for path in ["/v1/jobs", "/v1/jobs?all_or_none=true", "/v1/jobs?wait=5s"] {
        let (status, answer) = web.post(path, many.clone()).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
    }
}

/// All kinds are paused and resumed, and jobs that do not wait are to run now.
async fn all_is_paused_and_run_now(web: &mut Web, queued: JobId) {
    for change in ["pause", "resume"] {
        let (status, answer) = web
            .post(&format!("/v1/kinds/=all/{change}"), Value::Null)
            .await;
        assert_eq!(status, 200, "{answer}");
    }
    let run_now = format!("/v1/jobs/{queued}/run-now");
    let (status, answer) = web.post(&run_now, Value::Null).await;
    assert_eq!(status, 409, "{answer}");
    let many = "/v1/jobs/run-now?kind=nobody.serves";
    let (status, answer) = web.post(many, Value::Null).await;
    assert_eq!(status, 200, "{answer}");
}

async fn the_gateway_is_asked_about_schedules(web: &mut Web) {
    let hourly = json!({"every": "1h", "job": {"kind": "echo"}});
    web.put("/v1/schedules/hourly", hourly).await;
    for path in ["/v1/schedules", "/v1/schedules/hourly"] {
        assert_eq!(web.get(path).await.0, 200, "{path}");
    }
    for (change, expected) in [("pause", 200), ("resume", 200), ("run", 202)] {
        let path = format!("/v1/schedules/hourly/{change}");
        let (status, answer) = web.post(&path, Value::Null).await;
        assert_eq!(status, expected, "{answer}");
    }
    web.delete("/v1/schedules/hourly").await;
}

/// A consumer that gets the first job of its kind that is not of normal priority changes the setting of the
/// kind.
async fn a_priority_is_heeded(web: &mut Web) {
    let job = json!({"kind": "sha256", "payload": {"text": "abc"}, "priority": "high"});
    let (status, record) = web.post("/v1/jobs?wait=1m", job).await;
    assert_eq!((status, &record["state"]), (200, &json!("succeeded")));
    eventually(DEADLINE, "the priorities to be heeded", async || {
        let (_, answer) = web.get("/v1/kinds").await;
        let kinds: Value = serde_json::from_str(&answer).unwrap_or_default();
        let kinds = kinds["kinds"].as_array()?;
        let setting = kinds.iter().find(|setting| setting["kind"] == "sha256")?;
        (setting["priorities"] == true).then_some(())
    })
    .await;
}
