//! Parts of which pages are made.

pub(super) mod chart;
mod choice;
pub(super) mod json;
mod moment;
mod submit_example;
pub(super) mod text;
pub(super) mod timeline;

pub(super) use choice::Choice;
pub(super) use moment::Moment;
pub(super) use submit_example::SubmitExample;
