use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ContractError;

/// The name of a source: a database whose changes are read in one order, such as `mall`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(String);

impl SourceId {
    /// A source of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far one source has been read: everything at or before it is contained, nothing after it is.
///
/// Ordered within one source; printed as text that reads back to the same value, which is the form
/// stored in snapshot summaries (pinned by a test).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Position {
    /// The last row of an embedded database's change table that is contained.
    ChangeId(u64),
    /// A place in a log whose own coordinates have no order a reader could rely on: GTIDs of
    /// several servers, or an offset for each partition of many topics.
    Log {
        /// How many steps it took to get here since the source was first read; this is the order.
        step: u64,
        /// The place in the source's own words, which nobody else reads.
        at: String,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChangeId(id) => write!(f, "change:{id}"),
            Self::Log { step, at } => write!(f, "log:{step}:{at}"),
        }
    }
}

impl FromStr for Position {
    type Err = ContractError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let change = || text.strip_prefix("change:")?.parse().ok().map(Self::ChangeId);
        let log = || {
            let (step, at) = text.strip_prefix("log:")?.split_once(':')?;
            Some(Self::Log { step: step.parse().ok()?, at: at.to_owned() })
        };
        change().or_else(log).ok_or_else(|| ContractError::Position { text: text.to_owned() })
    }
}

/// A position for each source that has been read at all.
pub type Positions = BTreeMap<SourceId, Position>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_pinned_and_reads_back() {
        let position = Position::ChangeId(42);
        assert_eq!(position.to_string(), "change:42");
        assert_eq!("change:42".parse::<Position>().unwrap(), position);
        let position = Position::Log { step: 7, at: "mysql-bin.000003:4711 0-1001-12".to_owned() };
        assert_eq!(position.to_string(), "log:7:mysql-bin.000003:4711 0-1001-12");
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        for wrong in ["", "42", "change:", "change:-1", "change:1x", "log:", "log:7", "log:x:a"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn order_is_by_number_not_by_text() {
        assert!(Position::ChangeId(9) < Position::ChangeId(10));
        let log = |step, at: &str| Position::Log { step, at: at.to_owned() };
        assert!(log(9, "z") < log(10, "a"));
    }
}
