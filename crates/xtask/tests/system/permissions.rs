//! Who may do what with the users of `deploy/nats.conf`: asked of the server, for each user and each
//! subject, both ways.

use futures_util::StreamExt as _;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::raw_client::{Login, RawClient};

const USERS: [&str; 3] = ["publisher", "worker", "status"];

/// Subjects, and which of the users may publish there.
const PUBLISH: &[(&str, &[&str])] = &[
    ("jobs.create", &["publisher"]),
    ("jobs.create.echo", &["publisher", "worker"]),
    ("jobs.create.mail.send", &["publisher", "worker"]),
    ("jobs", &[]),
    ("jobs.created", &[]),
    ("jobs.status", &["status"]),
    ("jobs.status.all", &[]),
    ("jobs.serves.echo", &["publisher", "worker"]),
    ("handlers.resize", &["worker"]),
    ("_INBOX_publisher.a.b", &["publisher", "worker"]),
    ("_INBOX_status.a.b", &["worker", "status"]),
    ("_INBOX_worker.a.b", &["worker"]),
    ("_INBOX.billing.a.b", &["worker"]),
    ("$SRV.PING", &["status"]),
    ("$SRV.STATS.consumer.a", &["status"]),
    ("$SYS.REQ.SERVER.PING", &[]),
    ("$JS.API.INFO", &[]),
    ("anything.else", &[]),
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
    ("jobs.serves.echo", "workers", &["worker"]),
    ("handlers.resize", "", &[]),
    ("handlers.>", "workers", &[]),
    // Nobody reads another user's replies.
    ("_INBOX_publisher.>", "", &["publisher"]),
    ("_INBOX_worker.>", "", &["worker"]),
    ("_INBOX_status.>", "", &["status"]),
    ("_INBOX.>", "", &[]),
    ("_INBOX.billing.>", "", &[]),
    ("$SRV.PING", "", &USERS),
    ("$SRV.PING.consumer", "", &USERS),
    ("$SRV.INFO.consumer.a", "", &USERS),
    ("$SRV.STATS", "", &USERS),
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
        for (subject, allowed) in PUBLISH {
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
