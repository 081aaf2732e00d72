use thiserror::Error;

use crate::TableName;

/// What a caller can do about an error. Retry, HTTP status, SQLSTATE and exit code are each one
/// `match` on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request itself is wrong: repeat it changed.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The state of the thing forbids it now: read it again, then decide.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// A valid request for something this version does not do.
    Unsupported,
    /// Something needed is away for now: the same request may succeed later.
    Unavailable,
    /// A limit on memory, rows, time or connections was reached.
    Exhausted,
    /// The caller or an operator stopped it.
    Cancelled,
    /// Stored bytes are not what they must be: a person has to look.
    Corrupt,
    /// A defect of ours.
    Internal,
}

impl Kind {
    /// The HTTP status every door answers for this kind.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Denied => 403,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
            Self::Exhausted => 429,
            Self::Cancelled => 499,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The code in an error body, `invalid`, `not_found` and so on. Stable: clients match on it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request, unchanged, may succeed later.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Exhausted)
    }
}

/// A value of the contract that cannot be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContractError {
    /// A table name that is not `namespace.table` in lower-case letters, digits and underscores.
    #[error("table name \"{text}\" is not of the form namespace.table")]
    TableName {
        /// The text that was given.
        text: String,
    },
    /// A key or column that the table does not have, or has twice.
    #[error("table \"{table}\": {problem}")]
    Schema {
        /// The table.
        table: TableName,
        /// What is wrong with it.
        problem: String,
    },
    /// Rows whose shape is not the table's.
    #[error("changes of table \"{table}\": {problem}")]
    Change {
        /// The table.
        table: TableName,
        /// What is wrong with the rows.
        problem: String,
    },
    /// A position that cannot be read back.
    #[error("position \"{text}\" is not of a known form")]
    Position {
        /// The text that was given.
        text: String,
    },
}

impl ContractError {
    /// All of these are the caller's to mend.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// An error with its causes, for one line of a log or a reason that is shown.
#[must_use]
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
