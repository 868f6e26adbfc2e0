//! Users who send what no client library would, and try to stop or rob everybody else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(
    dead_code,
    unused_imports,
    reason = "some of it serves only the other tests of the system"
)]
#[path = "../system/fixture.rs"]
mod fixture;
mod fuzz;
#[expect(
    dead_code,
    reason = "some of it serves only the tests of the durable lane"
)]
#[path = "../durable/lane.rs"]
mod lane;
#[path = "../durable/ledger.rs"]
mod ledger;
#[path = "../observer/mod.rs"]
mod observer;
mod poison;
mod raw;
mod seen;
mod soak;
