//! The dashboard for people: pages that the server renders, and that a small script keeps up to date.

mod assets;
mod bulk_slot;
mod consumers;
mod dead_letter;
mod dead_letter_filter;
mod dead_letter_groups;
mod dead_letters;
mod dead_letters_bulk;
mod dead_letters_confirm;
mod form;
mod history;
mod job;
mod job_filter;
mod job_id;
mod jobs;
mod jobs_bulk;
mod kinds;
mod layout;
mod live;
mod overview;
mod problem;
mod render;
mod routes;
mod schedules;
mod sign_in;
mod state;
#[cfg(test)]
mod tests;
mod widgets;

pub(crate) use layout::Layout;
pub(crate) use problem::instead;
pub(crate) use render::html;
pub(crate) use routes::{asset_routes, router};
