//! Who may do what with the users of `deploy/nats.conf`: asked of the server, for each user and each
//! subject, both ways.

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::raw_client::{Login, RawClient};

const USERS: [&str; 6] = [
    "publisher",
    "worker",
    "status",
    "operator",
    "restore",
    "gateway",
];

/// Those of them that run for long, and the command `jobs`.
const WATCHERS: &[&str] = &["publisher", "worker", "status", "operator", "gateway"];

/// Those of them that run as services, and answer service discovery.
const SERVICES: &[&str] = &["publisher", "worker", "status", "gateway"];

/// Those who submit durable jobs; a worker those of recurring schedules.
const SUBMITTERS: &[&str] = &["publisher", "worker", "operator", "gateway"];

/// Those who submit unique jobs.
const HOLDERS: &[&str] = &["publisher", "operator", "gateway"];

/// Those who read jobs in the lane, and change what becomes of them.
const READERS: &[&str] = &["worker", "operator", "gateway", "restore"];

const STREAMS: [&str; 4] = ["JOBS", "JOBS_LATER", "JOBS_STATE", "JOBS_ADVISORIES"];

/// Subjects, and which of the users may publish there.
const PUBLISH: &[(&str, &[&str])] = &[
    ("jobs.create", &["publisher", "gateway"]),
    ("jobs.create.echo", &["publisher", "worker"]),
    ("jobs.create.mail.send", &["publisher", "worker"]),
    ("jobs", &[]),
    ("jobs.created", &[]),
    ("jobs.status", &["status"]),
    ("jobs.status.all", &[]),
    ("jobs.fleet", &["operator", "gateway"]),
    ("jobs.fleet.all", &[]),
    (
        "jobs.serves.echo",
        &["publisher", "worker", "operator", "gateway"],
    ),
    ("handlers.resize", &["worker"]),
    ("_INBOX_publisher.a.b", &["publisher", "worker"]),
    ("_INBOX_status.a.b", &["worker", "status"]),
    ("_INBOX_worker.a.b", &["worker"]),
    ("_INBOX.billing.a.b", &[]),
    ("$SRV.PING", &["status"]),
    ("$SRV.STATS.consumer.a", &["status"]),
    ("$SRV.OTHER", &[]),
    ("_INBOX_operator.a.b", &["worker", "operator"]),
    ("_INBOX_gateway.a.b", &["worker", "gateway"]),
    ("_INBOX_restore.a.b", &["restore"]),
    ("$SYS.REQ.SERVER.PING", &[]),
    ("$SYS.REQ.SERVER.PING.VARZ", &[]),
    ("anything.else", &[]),
    // The durable lane: submissions, ...
    ("jobs.durable.1.normal.1.echo", SUBMITTERS),
    ("jobs.durable.1.normal.1.mail.send", SUBMITTERS),
    // (a rollup there removes the jobs of all others)
    ("jobs.later.1", &["worker", "restore"]),
    ("jobs.later.1.2", &[]),
    ("jobs.due.1.normal.1.echo", &[]),
    // ... what becomes of them, ...
    ("jobs.state.1", READERS),
    ("jobs.state.1.2", &[]),
    ("jobs-ended-4096.state.1", &["worker"]),
    ("jobs-ended-4096.state.1.2", &[]),
    ("jobs.overdue.1.2", &["worker", "restore"]),
    ("jobs.overdue.1", &[]),
    ("jobs.cancel.1", READERS),
    ("jobs.cron.nightly", READERS),
    ("jobs.cron.nightly.1", &[]),
    ("jobs.tick.next.nightly", &["worker"]),
    ("jobs.tick.due.nightly", &[]),
    ("jobs.kind.mail=send", READERS),
    ("jobs.kind.=all", READERS),
    ("jobs.kind.mail.send", &[]),
    ("jobs.unique.1", HOLDERS),
    ("jobs.unique.1.2", &[]),
    ("jobs.release.1", HOLDERS),
    ("jobs.now.1", &["operator", "gateway"]),
    ("jobs.now.1.2", &[]),
    ("jobs.dead.1.mail.send", &["worker", "restore"]),
    ("jobs.events.1", &["worker"]),
    // ... what JetStream is asked, ...
    ("jobs.server", &["publisher", "worker", "gateway"]),
    ("jobs.server.health", WATCHERS),
    (
        "$JS.API.INFO",
        &["publisher", "worker", "status", "gateway"],
    ),
    ("$JS.API.STREAM.INFO.JOBS", &USERS),
    ("$JS.API.STREAM.INFO.JOBS_LATER", &USERS),
    ("$JS.API.STREAM.INFO.JOBS_STATE", &USERS),
    (
        "$JS.API.STREAM.INFO.JOBS_ADVISORIES",
        &["worker", "status", "gateway", "restore"],
    ),
    ("$JS.API.STREAM.NAMES", &[]),
    ("$JS.API.STREAM.LIST", &[]),
    ("$JS.API.STREAM.UPDATE.JOBS", &["worker"]),
    ("$JS.API.STREAM.UPDATE.JOBS_LATER", &["worker"]),
    ("$JS.API.STREAM.UPDATE.JOBS_STATE", &["worker"]),
    ("$JS.API.STREAM.UPDATE.JOBS_ADVISORIES", &["worker"]),
    ("$JS.API.STREAM.PURGE.JOBS", &["worker"]),
    ("$JS.API.STREAM.PURGE.JOBS_LATER", &["worker"]),
    ("$JS.API.STREAM.PURGE.JOBS_STATE", &["worker"]),
    ("$JS.API.STREAM.PURGE.JOBS_ADVISORIES", &[]),
    ("$JS.API.STREAM.MSG.DELETE.JOBS", &["worker"]),
    ("$JS.API.STREAM.MSG.DELETE.JOBS_LATER", &["worker"]),
    (
        "$JS.API.STREAM.MSG.DELETE.JOBS_STATE",
        &["operator", "gateway", "restore"],
    ),
    ("$JS.API.STREAM.MSG.GET.JOBS", READERS),
    ("$JS.API.STREAM.MSG.GET.JOBS_LATER", READERS),
    ("$JS.API.STREAM.MSG.GET.JOBS_STATE", READERS),
    ("$JS.API.STREAM.MSG.GET.JOBS_ADVISORIES", &[]),
    ("$JS.API.DIRECT.GET.JOBS", READERS),
    ("$JS.API.DIRECT.GET.JOBS_LATER", READERS),
    (
        "$JS.API.DIRECT.GET.JOBS_STATE",
        &["publisher", "worker", "operator", "gateway", "restore"],
    ),
    ("$JS.API.DIRECT.GET.JOBS_ADVISORIES", &[]),
    ("$JS.API.DIRECT.GET.JOBS.jobs.durable.1", &[]),
    (
        "$JS.API.DIRECT.GET.JOBS.jobs.unique.1",
        &["publisher", "worker", "operator", "gateway"],
    ),
    ("$JS.API.DIRECT.GET.JOBS_LATER.jobs.later.1", &[]),
    ("$JS.API.DIRECT.GET.JOBS_STATE.jobs.state.1", &[]),
    ("$JS.API.CONSUMER.NAMES.JOBS", &[]),
    ("$JS.API.CONSUMER.NAMES.JOBS_LATER", &[]),
    (
        "$JS.API.CONSUMER.LIST.JOBS",
        &["status", "operator", "gateway"],
    ),
    (
        "$JS.API.CONSUMER.LIST.JOBS_LATER",
        &["status", "operator", "gateway"],
    ),
    (
        "$JS.API.CONSUMER.PAUSE.JOBS.echo",
        &["worker", "operator", "gateway"],
    ),
    (
        "$JS.API.CONSUMER.PAUSE.JOBS_LATER.echo",
        &["worker", "operator", "gateway"],
    ),
    ("$JS.API.CONSUMER.PAUSE.JOBS_STATE.cancels", &[]),
    ("$JS.API.CONSUMER.PAUSE.JOBS_ADVISORIES.given-up", &[]),
    ("$JS.API.CONSUMER.INFO.JOBS.echo", &["worker"]),
    ("$JS.API.CONSUMER.INFO.JOBS_LATER.echo", &["worker"]),
    ("$JS.API.CONSUMER.INFO.JOBS_STATE.cancels", &["worker"]),
    (
        "$JS.API.CONSUMER.INFO.JOBS_ADVISORIES.given-up",
        &["worker"],
    ),
    // ... and another account's or program's streams.
    ("$JS.API.STREAM.INFO.OTHERS", &[]),
    ("$JS.API.STREAM.CREATE.OTHERS", &[]),
    ("$JS.API.CONSUMER.CREATE.OTHERS.echo", &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.OTHERS.echo", &[]),
    ("$JS.ACK.OTHERS.echo.1.2.3.4.5", &[]),
    ("$JS.ACK._.hash.OTHERS.echo.1.2.3.4.5", &[]),
];

/// The same for what is asked of each stream of the durable lane; `*` stands for its name.
const PUBLISH_OF_EACH_STREAM: &[(&str, &[&str])] = &[
    ("$JS.API.STREAM.CREATE.*", &["worker"]),
    ("$JS.API.STREAM.DELETE.*", &["restore"]),
    ("$JS.API.STREAM.SNAPSHOT.*", &["operator"]),
    ("$JS.SNAPSHOT.ACK.*.a.1.1", &["operator"]),
    ("$JS.API.STREAM.RESTORE.*", &["restore"]),
    ("$JS.SNAPSHOT.RESTORE.*.a", &["restore"]),
    ("$JS.API.CONSUMER.CREATE.*", &[]),
    (
        "$JS.API.CONSUMER.CREATE.*.echo.jobs.durable.*.*.*.echo",
        &["worker"],
    ),
    ("$JS.API.CONSUMER.DURABLE.CREATE.*.echo", &[]),
    ("$JS.API.CONSUMER.DELETE.*.echo", &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.*.echo", &["worker"]),
    // Both forms in which a server names an acknowledgement.
    ("$JS.ACK.*.echo.1.2.3.1700000000000000000.4", &["worker"]),
    (
        "$JS.ACK._.hash.*.echo.1.2.3.1700000000000000000.4",
        &["worker"],
    ),
    ("$JS.FC.*.echo.1", &[]),
];

/// Subjects with a queue group or without, and which of the users may subscribe to them.
const SUBSCRIBE: &[(&str, &str, &[&str])] = &[
    // A worker outside the group would run every job once more.
    ("jobs.create", "workers", &["worker"]),
    ("jobs.create", "", &[]),
    ("jobs.create", "others", &[]),
    ("jobs.create.echo", "workers", &["worker"]),
    ("jobs.create.echo", "", &[]),
    ("jobs.create.>", "workers", &["worker"]),
    ("jobs.create.>", "", &[]),
    ("jobs.*", "workers", &[]),
    ("jobs.>", "workers", &[]),
    ("jobs.>", "", &[]),
    ("jobs.status", "", &["worker"]),
    ("jobs.status", "consumer-1", &["worker"]),
    // One of several status services answers.
    ("jobs.fleet", "status", &["status"]),
    ("jobs.fleet", "", &[]),
    ("jobs.serves.echo", "workers", &["worker"]),
    ("jobs.cancel.*", "", &["worker"]),
    // The server takes `>` for one token that `*` covers. Nothing is ever published further down.
    ("jobs.cancel.>", "", &["worker"]),
    ("jobs.kind.*", "", &["worker"]),
    ("jobs.release.*", "workers", &["worker"]),
    ("jobs.release.*", "", &[]),
    ("jobs.now.*", "workers", &["worker"]),
    ("jobs.now.*", "", &[]),
    ("jobs.unique.*", "", &[]),
    ("jobs.events.>", "", &["operator", "gateway"]),
    ("jobs.events.*", "", &["operator", "gateway"]),
    ("jobs.events.1", "", &["operator", "gateway"]),
    // What is stored is asked for, and a job is pulled; nobody listens in.
    ("jobs.durable.>", "", &[]),
    ("jobs.durable.>", "workers", &[]),
    ("jobs.later.*", "", &[]),
    ("jobs.due.>", "", &[]),
    ("jobs.state.*", "", &[]),
    ("jobs.dead.>", "", &[]),
    ("jobs.server", "", &[]),
    ("$JS.API.>", "", &[]),
    ("$JS.ACK.>", "", &[]),
    ("$JS.EVENT.ADVISORY.>", "", &[]),
    ("handlers.resize", "", &[]),
    ("handlers.>", "workers", &[]),
    // Nobody reads another user's replies.
    ("_INBOX_publisher.>", "", &["publisher"]),
    ("_INBOX_worker.>", "", &["worker"]),
    ("_INBOX_status.>", "", &["status"]),
    ("_INBOX_operator.>", "", &["operator"]),
    ("_INBOX_restore.>", "", &["restore"]),
    ("_INBOX_gateway.>", "", &["gateway"]),
    ("_INBOX.>", "", &[]),
    ("_INBOX.billing.>", "", &[]),
    ("$SRV.PING", "", SERVICES),
    ("$SRV.PING.consumer", "", SERVICES),
    ("$SRV.INFO.consumer.a", "", SERVICES),
    ("$SRV.STATS", "", SERVICES),
    ("$SRV.>", "", &[]),
    ("$SYS.>", "", &[]),
    ("*", "", &[]),
    (">", "", &[]),
    (">", "workers", &[]),
];

#[tokio::test]
async fn each_user_may_do_what_its_service_needs_and_nothing_else() {
    let server = NatsServer::start().await;
    for user in USERS {
        let login = Login::of(&server, user);
        let mut client = RawClient::log_in(&server, Some(&login)).unwrap();
        let of_each_stream = PUBLISH_OF_EACH_STREAM
            .iter()
            .flat_map(|(subject, allowed)| {
                STREAMS.map(|stream| (subject.replacen('*', stream, 1), *allowed))
            });
        let subjects = PUBLISH
            .iter()
            .map(|(subject, allowed)| ((*subject).to_owned(), *allowed));
        for (subject, allowed) in subjects.chain(of_each_stream) {
            let complaints = client.complaints(&format!("PUB {subject} 0\r\n\r\n"));
            let expected = if allowed.contains(&user) {
                vec![]
            } else {
                vec![format!(
                    "Permissions Violation for Publish to \"{subject}\""
                )]
            };
            assert_eq!(complaints, expected, "{user} publishes to {subject}");
        }
        // A connection of its own, which gets none of the messages above.
        let mut client = RawClient::log_in(&server, Some(&login)).unwrap();
        for (number, (subject, queue, allowed)) in SUBSCRIBE.iter().enumerate() {
            let complaints = client.complaints(&format!("SUB {subject} {queue} {number}\r\n"));
            let using = if queue.is_empty() {
                String::new()
            } else {
                format!(" using queue \"{queue}\"")
            };
            let expected = if allowed.contains(&user) {
                vec![]
            } else {
                vec![format!(
                    "Permissions Violation for Subscription to \"{subject}\"{using}"
                )]
            };
            assert_eq!(
                complaints, expected,
                "{user} subscribes to {subject}{using}"
            );
        }
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_password() {
    let server = NatsServer::start().await;
    let refused = "Authorization Violation";
    assert_eq!(RawClient::log_in(&server, None).err().unwrap(), refused);
    for user in USERS.into_iter().chain(["", "admin", "$SYS", "sys"]) {
        for password in ["", " ", "password"] {
            let login = Login {
                user: user.to_owned(),
                password: password.to_owned(),
            };
            let refusal = RawClient::log_in(&server, Some(&login)).err();
            assert_eq!(
                refusal.as_deref(),
                Some(refused),
                "{user:?} came in with {password:?}"
            );
        }
    }
    for user in USERS {
        let others = USERS.iter().filter(|other| **other != user);
        for other in others {
            let login = Login {
                user: user.to_owned(),
                ..Login::of(&server, other)
            };
            let refusal = RawClient::log_in(&server, Some(&login)).err();
            assert_eq!(
                refusal.as_deref(),
                Some(refused),
                "{user} came in with the password of {other}"
            );
        }
    }
}

#[tokio::test]
async fn whoever_is_asked_by_service_discovery_may_answer_once() {
    let server = NatsServer::start().await;
    let publisher = server.connect_as("publisher").await;
    let mut questions = publisher.subscribe("$SRV.PING").await.unwrap();
    // The server takes what a connection sends in order, so its answer to this is the proof that it
    // knows of the subscription.
    let nobody = publisher.request("_INBOX_publisher.nobody", "".into());
    let error = nobody.await.unwrap_err();
    assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);

    let status = server.connect_as("status").await;
    let inbox = status.new_inbox();
    let mut answers = status.subscribe(inbox.clone()).await.unwrap();
    status
        .publish_with_reply("$SRV.PING", inbox, "".into())
        .await
        .unwrap();
    let question = tokio::time::timeout(DEADLINE, questions.next()).await;
    let question = question.unwrap().unwrap();
    let reply = question.reply.unwrap();
    for answer in ["first", "second"] {
        publisher
            .publish(reply.clone(), answer.into())
            .await
            .unwrap();
    }
    let answer = tokio::time::timeout(DEADLINE, answers.next()).await;
    assert_eq!(answer.unwrap().unwrap().payload, "first");
    eventually(DEADLINE, "the server's refusal", async || {
        let refusal = format!("Publish Violation - Subject \"{reply}\"");
        let log = server.log();
        let refusals = log
            .lines()
            .filter(|line| line.contains("user:publisher") && line.ends_with(&refusal));
        (refusals.count() == 1).then_some(())
    })
    .await;
}

/// Asks JetStream, or the server, as this client's user.
async fn ask(client: &Client, subject: &str, what: Value) -> Value {
    let question = client.request(subject.to_owned(), what.to_string().into());
    let answer = tokio::time::timeout(DEADLINE, question).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer from {subject}"));
    let answer = answer.unwrap_or_else(|error| panic!("no answer from {subject}: {error}"));
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Makes a stream as a worker would.
async fn make_stream(worker: &Client, name: &str, subjects: &[&str]) {
    let config =
        json!({"name": name, "subjects": subjects, "storage": "file", "allow_direct": true});
    let created = ask(worker, &format!("$JS.API.STREAM.CREATE.{name}"), config).await;
    assert_eq!(created["config"]["name"], name, "{created}");
}

async fn messages(client: &Client, stream: &str) -> Value {
    let info = ask(
        client,
        &format!("$JS.API.STREAM.INFO.{stream}"),
        Value::Null,
    )
    .await;
    info["state"]["messages"].clone()
}

#[tokio::test]
async fn an_acknowledgement_that_is_sent_to_jetstream_is_not_taken_for_a_request() {
    let server = NatsServer::start().await;
    let worker = server.connect_as("worker").await;
    make_stream(&worker, "JOBS", &["jobs.durable.*.*.*.>"]).await;
    let publisher = server.connect_as("publisher").await;
    let targets = [
        "$JS.API.STREAM.PURGE.JOBS",
        "$JS.API.STREAM.DELETE.JOBS",
        "$JS.API.STREAM.UPDATE.JOBS",
        "$JS.API.STREAM.MSG.DELETE.JOBS",
    ];
    for (number, target) in targets.into_iter().enumerate() {
        // The server answers a job into JetStream, where the publisher may not publish, ...
        let subject = format!("jobs.durable.{number}.normal.1.echo");
        let sent = publisher.publish_with_reply(subject, target, "{}".into());
        sent.await.unwrap();
    }
    // ... and it has answered them all before this one.
    let last = ask(&publisher, "jobs.durable.last.normal.1.echo", json!({})).await;
    let all = targets.len() as u64 + 1;
    assert_eq!(last["seq"], all, "{last}");
    assert_eq!(messages(&publisher, "JOBS").await, all);
}

/// `deploy/nats.conf` describes such an account for programs that are not trusted.
const ACCOUNT_OF_ITS_OWN: &str = r#"
accounts {
  JOBS {
    jetstream: enabled
    exports = [ { service: "jobs.durable.>", accounts: [TENANT] } ]
    users = [ { user: anybody } ]
  }
  TENANT {
    imports = [ { service: { account: JOBS, subject: "jobs.durable.>" } } ]
    users = [ { user: tenant, password: OnlyForThisTest, permissions {
        publish { allow: ["jobs.durable.>"] }, subscribe { allow: ["_INBOX.tenant.>"] } } } ]
  }
}
no_auth_user: anybody
"#;

#[tokio::test]
async fn an_account_of_its_own_keeps_all_answers_to_itself() {
    let server = NatsServer::builder()
        .open()
        .config(ACCOUNT_OF_ITS_OWN)
        .start()
        .await;
    let worker = server.connect_as("worker").await;
    make_stream(&worker, "JOBS", &["jobs.durable.*.*.*.>"]).await;
    make_stream(
        &worker,
        "JOBS_STATE",
        &["jobs.state.*", "jobs.cancel.*", "jobs.dead.*.>"],
    )
    .await;
    let options = ConnectOptions::with_user_and_password("tenant".into(), "OnlyForThisTest".into());
    let tenant = options
        .custom_inbox_prefix("_INBOX.tenant")
        .connect(server.url());
    let tenant = tenant.await.unwrap();
    let targets = ["jobs.state.1", "jobs.cancel.1", "jobs.dead.1.echo"];
    for (number, target) in targets.into_iter().enumerate() {
        let subject = format!("jobs.durable.{number}.normal.1.echo");
        let sent = tenant.publish_with_reply(subject, target, "{}".into());
        sent.await.unwrap();
    }
    let last = ask(&tenant, "jobs.durable.last.normal.1.echo", json!({})).await;
    assert_eq!(last["seq"], 4, "{last}");
    assert_eq!(messages(&worker, "JOBS").await, 4);
    assert_eq!(messages(&worker, "JOBS_STATE").await, 0);
}
