//! A model of the protocol of durable jobs, explored to its end for small cases: whatever the order of the
//! steps and wherever a consumer, a client or the server is killed, the promises hold. Without any one
//! of the guards, they do not.
//!
//! docs/architecture.md says what the model covers, and in which file the code has each guard.

#![cfg(test)]

mod case;
mod consumer;
mod guard;
mod protocol;
mod server;
mod steps;

use std::path::Path;

use stateright::{Checker, HasDiscoveries, Model as _};

use crate::case::Case;
use crate::guard::Guard;
use crate::protocol::{
    CANCELLED, DIES, EXPIRES, IS_CANCELLED, IS_PURGED, NOT_AFTER_END, NOT_LOST, NOT_STUCK,
    NOT_WITHOUT_CAUSE, ONE_END, Protocol, RAN, SUCCEEDS, SUCCEEDS_LATER,
};

/// What must always hold.
const PROMISES: [&str; 7] = [
    NOT_LOST,
    NOT_STUCK,
    ONE_END,
    RAN,
    CANCELLED,
    NOT_AFTER_END,
    NOT_WITHOUT_CAUSE,
];

/// In which case the checker finds which promise broken, without a guard.
const MUTATIONS: [(Guard, Case, &str); 20] = [
    (Guard::CompareAndSet, Case::RETRIED, ONE_END),
    (Guard::LookUpOnRedelivery, Case::RETRIED, NOT_AFTER_END),
    (Guard::RunOfRecord, Case::RETRIED_TWICE, NOT_AFTER_END),
    (Guard::RecordBeforeAck, Case::RETRIED, NOT_LOST),
    (Guard::ScheduleBeforeAck, Case::RETRIED, NOT_LOST),
    (Guard::LetterWithRecord, Case::RETRIED, NOT_LOST),
    (Guard::PurgeBelowAckFloor, Case::TWO_JOBS, NOT_LOST),
    (Guard::PurgeAfterAdvisories, Case::GIVEN_UP, NOT_LOST),
    (Guard::LetterBeforeDelete, Case::GIVEN_UP, NOT_LOST),
    (
        Guard::OneMessagePerSubject,
        Case::SUBMITTED_AGAIN,
        NOT_WITHOUT_CAUSE,
    ),
    (
        Guard::OneMessagePerId,
        Case::TWO_SUBMITTERS,
        NOT_WITHOUT_CAUSE,
    ),
    (Guard::FreshOnlyOnce, Case::SUBMITTED_AGAIN, NOT_AFTER_END),
    (
        Guard::LookUpAfterReconnect,
        Case::SUBMITTED_AGAIN,
        NOT_AFTER_END,
    ),
    (Guard::LookUpAfterCancel, Case::CANCELLED, NOT_AFTER_END),
    (Guard::ConfirmDoubtful, Case::CLUSTER, NOT_STUCK),
    (Guard::CancelledBeforeDelete, Case::CANCELLED, NOT_LOST),
    (Guard::QueuedBeforeRemove, Case::REPLAYED, NOT_LOST),
    (Guard::RemoveBySequence, Case::REPLAYED, NOT_LOST),
    (Guard::SurelyAlone, Case::WITHOUT_RECORD, ONE_END),
    (Guard::RecordOutlivesMessage, Case::EXPIRED, ONE_END),
];

/// What happens in a case, so that what is promised of it is not promised of nothing.
fn must_happen(name: &str) -> Vec<&'static str> {
    let mut all = vec![SUCCEEDS, IS_PURGED, DIES];
    match name {
        "cancelled" | "cancelled later" => all.push(IS_CANCELLED),
        "cluster" => all.extend([IS_CANCELLED, SUCCEEDS_LATER]),
        "retried" | "retried twice" | "replayed" | "without a record" => all.push(SUCCEEDS_LATER),
        "expired" => all.push(EXPIRES),
        _ => {}
    }
    all
}

#[test]
fn the_promises_hold_whatever_the_order_of_the_steps_and_whoever_is_killed() {
    for (name, case) in Case::ALL {
        let protocol = Protocol {
            case,
            without: None,
        };
        let begun = std::time::Instant::now();
        let checker = protocol.checker().threads(2);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures);
        let checker = checker.spawn_bfs().join();
        let (states, elapsed) = (checker.unique_state_count(), begun.elapsed());
        println!("{name}: {states} states in {elapsed:.1?}");
        for promise in PROMISES {
            checker.assert_no_discovery(promise);
        }
        for example in must_happen(name) {
            checker.assert_any_discovery(example);
        }
    }
}

#[test]
fn without_any_one_of_the_guards_a_promise_is_broken() {
    for (guard, case, promise) in MUTATIONS {
        let protocol = Protocol {
            case,
            without: Some(guard),
        };
        let checker = protocol.checker();
        let checker = checker.finish_when(HasDiscoveries::AnyFailures);
        let checker = checker.spawn_bfs().join();
        let found = checker.discoveries();
        let broken: Vec<_> = PROMISES
            .into_iter()
            .filter(|promise| found.contains_key(promise))
            .collect();
        assert!(broken.contains(&promise), "without {guard:?}: {broken:?}");
        let steps = found[promise].clone().into_actions();
        println!("without {guard:?}, {promise} does not hold after {steps:?}");
    }
    for guard in Guard::ALL {
        let mut mutations = MUTATIONS.iter();
        assert!(mutations.any(|(of, ..)| *of == guard), "{guard:?}");
    }
}

#[test]
fn the_architecture_says_where_the_code_has_each_guard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(4)
        .unwrap();
    let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    for guard in Guard::ALL {
        let name = format!("| `{guard:?}` |");
        let mut rows = page.lines().filter(|line| line.starts_with(&name));
        let row = rows
            .next()
            .unwrap_or_else(|| panic!("no row for {guard:?}"));
        let is_file = |word: &&str| Path::new(word).extension().is_some_and(|it| it == "rs");
        let mut files = row.split('`').filter(is_file);
        let is_there = |file: &str| root.join("crates").join(file).is_file();
        assert!(files.clone().count() > 0, "{row}");
        assert!(files.all(is_there), "{row}");
    }
}
