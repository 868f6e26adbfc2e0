//! Hands jobs over to the consumers: one by one, at a rate, or in bulk from newline-delimited
//! JSON; each of them at most once without an answer, or at least once while the publisher lives.
//!
//! [`serve()`] is the service. A program that submits jobs of its own uses a [`Submitter`].

mod answer;
mod bad_lines;
mod closed;
mod config;
mod delivery;
mod engine;
mod held;
mod input;
mod job_log;
mod jobs;
mod lanes;
mod lines;
mod metrics;
mod output;
mod pace;
mod progress;
mod reply_subject;
mod report;
mod run;
mod schedule;
mod serve;
mod slots;
mod stored;
mod submission;
mod submitter;
mod trace;
mod unconfirmed;
mod window;

pub use answer::own_codes as codes;
pub use closed::ConnectionClosed;
pub use config::Config;
pub use serve::serve;
pub use submission::{InvalidJob, Submission};
pub use submitter::{Finished, SubmitOptions, Submitter};
