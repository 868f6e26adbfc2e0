//! How long jobs ran, in all consumers together.

use std::collections::BTreeMap;

use common::{FleetKind, RunCounts};

use crate::asking::{MAX_KINDS, StatusAnswer};

/// What the last answer of a consumer told of its runs.
#[derive(Debug)]
pub(super) struct MemberRuns {
    kinds: BTreeMap<String, RunCounts>,
    /// Whether these are all its kinds.
    all: bool,
}

impl MemberRuns {
    /// Of a consumer that has run nothing yet.
    pub(super) fn none() -> Self {
        Self {
            kinds: BTreeMap::new(),
            all: true,
        }
    }

    pub(super) fn of(answer: &StatusAnswer) -> Self {
        let mut kinds: BTreeMap<String, RunCounts> = BTreeMap::new();
        // A kind may be in both lanes.
        for kind in &answer.kinds {
            if !kind.run_counts.is_empty() {
                *kinds.entry(kind.kind.clone()).or_default() += &kind.run_counts;
            }
        }
        Self {
            kinds,
            all: answer.kinds.len() < MAX_KINDS,
        }
    }
}

/// The runs of each kind since it was first seen. The counts do not go down, whatever happens to
/// consumers.
#[derive(Debug, Default)]
pub(super) struct FleetRuns(BTreeMap<String, RunCounts>);

impl FleetRuns {
    /// Adds what a consumer ran between two answers. If there is no answer before, it is not known when
    /// it ran that, and only the kinds are noted.
    pub(super) fn add(&mut self, before: Option<&MemberRuns>, now: &MemberRuns) {
        for (kind, counts) in &now.kinds {
            let sum = self.0.entry(kind.clone()).or_default();
            let Some(before) = before else { continue };
            match before.kinds.get(kind) {
                Some(earlier) => *sum += &counts.since(earlier),
                None if before.all => *sum += counts,
                None => {}
            }
        }
    }

    /// Tells the kinds their counts, and forgets all other kinds, so that memory stays bounded.
    pub(super) fn tell(&mut self, kinds: &mut [FleetKind]) {
        let mut told = BTreeMap::new();
        for kind in kinds {
            if let Some((name, counts)) = self.0.remove_entry(&kind.kind) {
                kind.run_counts = Some(counts.clone());
                told.insert(name, counts);
            }
        }
        self.0 = told;
    }
}
