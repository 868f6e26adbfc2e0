//! The durable lane on real servers with real consumers: what is promised, and what becomes of it
//! when things break.
//!
//! Everything is asserted from outside: from a ledger that the handlers write, from the records
//! that the lane keeps, and from the events that it tells.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod application;
mod backup;
mod cancel;
mod crash;
mod cron;
mod cut_off;
mod expiry;
#[expect(
    dead_code,
    unused_imports,
    reason = "some of it serves only the other tests of the system"
)]
#[path = "../system/fixture.rs"]
mod fixture;
mod given_up;
mod health;
mod identity;
mod lane;
mod large;
mod ledger;
mod newer_version;
#[path = "../observer/mod.rs"]
mod observer;
mod outage;
mod outcome;
mod overdue;
mod pause;
mod priority;
mod proxy;
mod queue_limit;
#[path = "../system/raw_client.rs"]
mod raw_client;
mod run_now;
mod schedules;
mod storing;
mod storm;
mod submission;
mod time;
mod topology;
mod unique;
mod watching;
