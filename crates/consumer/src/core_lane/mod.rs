//! Core jobs: messages on `jobs.create` and `jobs.create.<kind>`, which nothing stores.

pub(crate) mod forward;
pub(crate) mod intake;
mod reply;
mod reply_check;
pub(crate) mod settle;

pub(crate) use reply::{Reply, send};
pub(crate) use reply_check::ReplyCheck;
