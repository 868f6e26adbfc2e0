//! One round: a question on `jobs.status`, and the answers of all consumers.

mod answer;
mod asker;
mod round;

pub(crate) use answer::MAX_KINDS;
pub use answer::{InstanceId, KindRuns, StatusAnswer};
pub use asker::Asker;
pub use round::{Ignored, Round, RoundEnd};
