use common::{JobKind, JobState, KindPattern, Timestamp};

use crate::search_text::SearchText;

/// Selects jobs.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of these kinds.
    pub kind: Option<KindPattern>,
    /// Only jobs whose state began at this time or later. The state of a job that has ended began when
    /// it ended.
    pub since: Option<Timestamp>,
    /// Only jobs whose state began before this time.
    pub until: Option<Timestamp>,
    /// Only jobs that have this text in their payload or in the error of a failed attempt. The payload
    /// of a job that has ended is searched if its record keeps it.
    pub text: Option<SearchText>,
}

impl Filter {
    /// Whether it selects all jobs.
    #[must_use]
    pub fn is_all(&self) -> bool {
        let Self {
            state,
            kind,
            since,
            until,
            text,
        } = self;
        state.is_none() && kind.is_none() && since.is_none() && until.is_none() && text.is_none()
    }

    pub(crate) fn has_kind(&self, kind: Option<&JobKind>) -> bool {
        let pattern = self.kind.as_ref();
        pattern.is_none_or(|pattern| kind.is_some_and(|kind| pattern.matches(kind.as_str())))
    }

    pub(crate) fn has_time(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}
