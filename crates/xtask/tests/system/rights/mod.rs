//! `deploy/nats.conf` grants what the services use, and nothing else.
//!
//! All services run and do all that they can. The server traces what each of its users asks for, and
//! that is compared with what the file grants. What is granted for another reason is in
//! [`exceptions`].
//!
//! A right counts as unused where [`everything`] does not provoke its use. So look for its subject in
//! the code before you remove it, and add what is missing to the run if a service needs it.

mod backup;
mod configuration;
mod everything;
mod exceptions;
mod recorded;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use configuration::Rights;
use exceptions::EXCEPTIONS;
use recorded::Recorded;
use test_support::eventually;

/// How long what the services do by themselves, such as trimming the queue and watching jobs that
/// wait, may take to be seen.
const BY_THEMSELVES: Duration = Duration::from_mins(1);

/// Rights that were granted and not used: the user, and the right as it stands in the file, behind
/// `publish` or `subscribe`.
fn unused(
    granted: &BTreeMap<String, Rights>,
    recorded: &BTreeMap<String, Recorded>,
) -> BTreeSet<(String, String)> {
    let nothing = Recorded::default();
    let mut unused = BTreeSet::new();
    for (user, rights) in granted {
        let used = recorded.get(user).unwrap_or(&nothing);
        let mut tell = |right: String| unused.insert((user.clone(), right));
        for right in &rights.publish {
            if !used.published.iter().any(|it| right.covers(it, "")) {
                tell(format!("publish {right}"));
            }
        }
        for right in &rights.subscribe {
            let covered = |(subject, queue): &(String, String)| right.covers(subject, queue);
            if !used.subscribed.iter().any(covered) {
                tell(format!("subscribe {right}"));
            }
        }
        if rights.responses && rights.not_granted(used).next().is_none() {
            tell("allow_responses".to_owned());
        }
    }
    unused
}

/// What was used and is not granted, as far as the file is understood here: the server has its own
/// word on it, too.
fn not_granted(
    granted: &BTreeMap<String, Rights>,
    recorded: &BTreeMap<String, Recorded>,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (user, rights) in granted {
        let Some(used) = recorded.get(user) else {
            continue;
        };
        for subject in rights.not_granted(used) {
            if !(rights.responses && used.asked_to_answer.contains(subject)) {
                found.insert(format!("{user} publishes to {subject}"));
            }
        }
        for (subject, queue) in &used.subscribed {
            if !rights.subscribe.iter().any(|it| it.covers(subject, queue)) {
                found.insert(format!("{user} subscribes to {subject} {queue}"));
            }
        }
    }
    found
}

#[tokio::test]
async fn each_right_of_a_user_is_used_by_its_service_or_has_a_written_reason() {
    let granted = configuration::read();
    let users: Vec<_> = granted.keys().map(String::as_str).collect();
    assert_eq!(
        users,
        [
            "application",
            "gateway",
            "operator",
            "publisher",
            "restore",
            "status",
            "worker"
        ]
    );
    let excused: BTreeSet<_> = EXCEPTIONS
        .iter()
        .flat_map(|it| {
            it.rights
                .iter()
                .map(|right| (it.user.to_owned(), (*right).to_owned()))
        })
        .collect();

    let system = everything::run().await;
    // Some of it the services do every now and then. What is never done is told below.
    let _ = tokio::time::timeout(
        BY_THEMSELVES,
        eventually(2 * BY_THEMSELVES, "each right to be used", async || {
            let unused = unused(&granted, &recorded::read(&system.log()));
            unused.is_subset(&excused).then_some(())
        }),
    )
    .await;
    let log = system.stop().await;

    assert_eq!(recorded::violations(&log), [""; 0], "the server refused");
    let recorded = recorded::read(&log);
    let used = not_granted(&granted, &recorded);
    assert!(
        used.is_empty(),
        "used without a right that this test knows of: {used:#?}"
    );
    let unused = unused(&granted, &recorded);
    let idle: Vec<_> = unused.difference(&excused).collect();
    assert!(
        idle.is_empty(),
        "granted in deploy/nats.conf, used by nobody, and without a reason in exceptions.rs: \
         {idle:#?}"
    );
    let stale: Vec<_> = excused.difference(&unused).collect();
    assert!(
        stale.is_empty(),
        "in exceptions.rs, but used or not granted: {stale:#?}"
    );
}
