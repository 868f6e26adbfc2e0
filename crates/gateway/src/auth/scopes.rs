use std::fmt;

use serde::Deserialize;

/// What a token allows. No scope implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// See jobs, dead letters, the fleet, the streams and the queues.
    Read,
    /// Submit jobs and receive their outcomes.
    Submit,
    /// Cancel jobs; replay and discard dead letters; change the settings of kinds; change and run schedules.
    Operate,
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes(u8);

impl Scope {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Operate => "operate",
        })
    }
}

impl Scopes {
    pub(crate) const ALL: Self =
        Self(Scope::Read.bit() | Scope::Submit.bit() | Scope::Operate.bit());

    pub(crate) const fn contain(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}
