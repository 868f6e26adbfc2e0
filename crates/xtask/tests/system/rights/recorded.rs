//! What each user asked of the server, by the server's own trace.

use std::collections::{BTreeMap, BTreeSet};

/// What one user did, on all its connections.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// The subjects that it published to.
    pub(crate) published: BTreeSet<String>,
    /// The subjects that it subscribed to, each with its queue group, or an empty one.
    pub(crate) subscribed: BTreeSet<(String, String)>,
    /// The reply subjects of the messages that it was sent.
    pub(crate) asked_to_answer: BTreeSet<String>,
}

/// What each user did, by the log of a server that traces.
pub(crate) fn read(log: &str) -> BTreeMap<String, Recorded> {
    let mut recorded: BTreeMap<String, Recorded> = BTreeMap::new();
    for (user, event) in of_users(log) {
        let Some(command) = event.strip_suffix(']') else {
            continue;
        };
        let used = recorded.entry(user.to_owned()).or_default();
        if let Some(command) = command.strip_prefix("<<- [") {
            match command.split(' ').collect::<Vec<_>>()[..] {
                ["PUB" | "HPUB", subject, ..] => {
                    used.published.insert(subject.to_owned());
                }
                // Without a queue group there are two blanks between the two.
                ["SUB", subject, queue, _] => {
                    used.subscribed
                        .insert((subject.to_owned(), queue.to_owned()));
                }
                // The protocol allows one blank, too.
                ["SUB", subject, _] => {
                    used.subscribed.insert((subject.to_owned(), String::new()));
                }
                _ => {}
            }
        } else if let Some(command) = command.strip_prefix("->> [")
            && let ["MSG", _, _, reply, _] | ["HMSG", _, _, reply, _, _] =
                command.split(' ').collect::<Vec<_>>()[..]
        {
            used.asked_to_answer.insert(reply.to_owned());
        }
    }
    recorded
}

/// What the server did not permit.
pub(crate) fn violations(log: &str) -> Vec<&str> {
    let of_users = of_users(log);
    let refused = of_users.filter(|(_, event)| {
        event.starts_with("Publish Violation") || event.starts_with("Subscription Violation")
    });
    refused.map(|(_, event)| event).collect()
}

/// What the log says of connections that have logged in: the user, and what happened.
fn of_users(log: &str) -> impl Iterator<Item = (&str, &str)> {
    log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" - \"JOBS/user:")?;
        rest.split_once("\" - ")
    })
}

#[test]
fn the_trace_is_read() {
    let log = "\
[1] 2026/11/29 23:39:18.0 [INF] Server is ready
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:1 - cid:6 - <<- [CONNECT {\"user\":\"worker\",\"verbose\":false}]
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:1 - cid:6 - \"v1:rust:one\" - \"JOBS/user:worker\" - <<- [SUB jobs.create.> workers 1]
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:1 - cid:6 - \"JOBS/user:worker\" - <<- [SUB jobs.status  2]
[1] 2026/11/29 23:39:18.0 [ERR] 127.0.0.1:1 - cid:6 - \"JOBS/user:worker\" - Subscription Violation - Subject \"jobs.bad\", SID 3
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:1 - cid:6 - \"JOBS/user:worker\" - ->> [HMSG jobs.create.a 1 _INBOX_b.1 18 339]
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:1 - cid:6 - \"JOBS/user:worker\" - ->> [HMSG jobs.create.a 1 18 339]
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:1 - cid:6 - \"JOBS/user:worker\" - ->> MSG_PAYLOAD: [\"- \\\"JOBS/user:status\\\" - <<- [PUB a 0]\"]
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:2 - cid:7 - \"JOBS/user:gateway\" - <<- [HPUB jobs.create.a _INBOX_b.1 18 339]
[1] 2026/11/29 23:39:18.0 [TRC] 127.0.0.1:2 - cid:7 - \"JOBS/user:gateway\" - <<- [PUB jobs.fleet 0]
";
    let recorded = read(log);
    let (worker, gateway) = (&recorded["worker"], &recorded["gateway"]);
    let pair = |subject: &str, queue: &str| (subject.to_owned(), queue.to_owned());
    assert_eq!(
        worker.subscribed,
        [pair("jobs.create.>", "workers"), pair("jobs.status", "")].into()
    );
    assert!(worker.published.is_empty());
    assert_eq!(worker.asked_to_answer, ["_INBOX_b.1".to_owned()].into());
    assert_eq!(
        gateway.published,
        ["jobs.create.a".to_owned(), "jobs.fleet".to_owned()].into()
    );
    assert_eq!(recorded.len(), 2);
    assert_eq!(
        violations(log),
        ["Subscription Violation - Subject \"jobs.bad\", SID 3"]
    );
}
