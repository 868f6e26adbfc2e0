//! The first page: the state of the whole system, now and in the last minutes.

mod charts;
mod guarantees;
mod page;
mod states;
mod tiles;

#[cfg(test)]
pub(super) use page::OverviewPage;
pub(super) use page::page;
