//! The HTTP API for programs: the routes below `/v1`, and their description.

mod age;
mod body;
mod dead_letter_groups;
mod dead_letters;
mod dead_letters_bulk;
mod docs;
mod events;
mod fleet;
mod hand_over;
mod jobs;
mod jobs_bulk;
mod kinds;
mod many;
mod openapi;
mod params;
mod queues;
mod routes;
mod schedules;
mod schema;
mod streams;
mod submit;

pub(crate) use routes::{no_such_method, no_such_route, router};
