use datafusion::error::DataFusionError;
use medlake_contract::Kind;
use thiserror::Error;

/// What can go wrong between a statement and its last row, whichever door it came through.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The statement is wrong: syntax, names, types, values.
    #[error("{}", .0.message)]
    Sql(Box<SqlProblem>),
    /// A statement that would write.
    #[error("cannot execute {command} in a read-only transaction")]
    ReadOnly {
        /// The SQL command, such as `INSERT`.
        command: String,
    },
    /// A statement inside a transaction block that has already failed.
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    TransactionAborted,
    /// A valid request for something this version does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// The statement ran longer than it may.
    #[error("canceling statement due to statement timeout")]
    Timeout {
        /// How long it was allowed to run, in milliseconds.
        limit_ms: u64,
    },
    /// The caller asked to stop the statement.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// The result has more rows than this door hands out.
    #[error("the result has more than {limit} rows")]
    TooManyRows {
        /// The most rows this door hands out.
        limit: u64,
    },
    /// The statement needs more memory (or spill space) than is left.
    #[error("out of memory")]
    Memory {
        /// What the memory pool said.
        #[source]
        source: DataFusionError,
    },
    /// All permits were taken for as long as a statement may wait.
    #[error("too many statements are running")]
    Busy {
        /// How many run at once.
        permits: usize,
    },
    /// A request that is not of the form the door takes.
    #[error("{problem}")]
    Request {
        /// What is wrong with it.
        problem: String,
        /// Where or what was found instead.
        detail: Option<String>,
    },
    /// A metric query that does not fit the model.
    #[error("the metric query does not fit the model: {}", .problems.join("; "))]
    Metric {
        /// All that is wrong with it.
        problems: Vec<String>,
    },
    /// A thing named in the request that is not there.
    #[error("there is no {what} \"{name}\"")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// The name that was given.
        name: String,
    },
    /// Definitions given to the server that cannot be served.
    #[error("the dashboards cannot be served: {}", .problems.join("; "))]
    Definitions {
        /// All that is wrong with them.
        problems: Vec<String>,
    },
    /// Reading the lake or running the plan failed.
    #[error("could not run the statement: {message}")]
    Engine {
        /// The cause in words for the user.
        message: String,
        /// What a caller can do.
        kind: Kind,
        /// The cause.
        #[source]
        source: DataFusionError,
    },
}

/// What is wrong with a statement, in the parts PostgreSQL reports it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlProblem {
    /// What kind of mistake it is.
    pub code: SqlCode,
    /// One line, PostgreSQL's own words where it has them.
    pub message: String,
    /// More facts.
    pub detail: Option<String>,
    /// What may help.
    pub hint: Option<String>,
    /// Where in the statement, in characters from 1.
    pub position: Option<usize>,
}

/// The SQLSTATEs that say more than the kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are PostgreSQL's condition names")]
pub enum SqlCode {
    SyntaxError,
    UndefinedTable,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedSchema,
    UndefinedObject,
    UndefinedParameter,
    AmbiguousColumn,
    DuplicateAlias,
    GroupingError,
    DatatypeMismatch,
    DivisionByZero,
    InvalidTextRepresentation,
    NumericValueOutOfRange,
    InvalidParameterValue,
    StatementTooComplex,
    /// Wrong, in a way PostgreSQL has no narrower word for.
    SyntaxErrorOrAccessRuleViolation,
}

impl SqlCode {
    const fn sqlstate(self) -> &'static str {
        match self {
            Self::SyntaxError => "42601",
            Self::UndefinedTable => "42P01",
            Self::UndefinedColumn => "42703",
            Self::UndefinedFunction => "42883",
            Self::UndefinedSchema => "3F000",
            Self::UndefinedObject => "42704",
            Self::UndefinedParameter => "42P02",
            Self::AmbiguousColumn => "42702",
            Self::DuplicateAlias => "42712",
            Self::GroupingError => "42803",
            Self::DatatypeMismatch => "42804",
            Self::DivisionByZero => "22012",
            Self::InvalidTextRepresentation => "22P02",
            Self::NumericValueOutOfRange => "22003",
            Self::InvalidParameterValue => "22023",
            Self::StatementTooComplex => "54001",
            Self::SyntaxErrorOrAccessRuleViolation => "42000",
        }
    }
}

impl SqlProblem {
    /// A problem that is only a message so far.
    pub fn new(code: SqlCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None, position: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<SqlProblem> for QueryError {
    fn from(problem: SqlProblem) -> Self {
        Self::Sql(Box::new(problem))
    }
}

impl QueryError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sql(problem) => match problem.code {
                SqlCode::UndefinedTable | SqlCode::UndefinedSchema => Kind::NotFound,
                _ => Kind::Invalid,
            },
            Self::Request { .. } | Self::Metric { .. } | Self::Definitions { .. } => Kind::Invalid,
            Self::ReadOnly { .. } => Kind::Denied,
            Self::TransactionAborted => Kind::Conflict,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Timeout { .. }
            | Self::TooManyRows { .. }
            | Self::Memory { .. }
            | Self::Busy { .. } => Kind::Exhausted,
            Self::Cancelled => Kind::Cancelled,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Engine { kind, .. } => *kind,
        }
    }

    /// The SQLSTATE of the Postgres door: the kind's, unless the error knows a narrower one.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Sql(problem) => return problem.code.sqlstate(),
            Self::ReadOnly { .. } => return "25006",
            Self::TransactionAborted => return "25P02",
            Self::Timeout { .. } => return "57014",
            Self::TooManyRows { .. } => return "54000",
            Self::Memory { .. } => return "53200",
            _ => {}
        }
        match self.kind() {
            Kind::Invalid => "22023",
            Kind::NotFound => "42704",
            Kind::Conflict => "55000",
            Kind::Denied => "42501",
            Kind::Unsupported => "0A000",
            Kind::Unavailable => "57P03",
            Kind::Exhausted => "53000",
            Kind::Cancelled => "57014",
            Kind::Corrupt => "XX001",
            _ => "XX000",
        }
    }

    /// More facts, for the person who wrote the statement.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Sql(problem) => problem.detail.clone(),
            Self::Request { detail, .. } => detail.clone(),
            Self::Timeout { limit_ms } => Some(format!("the limit is {limit_ms} ms")),
            Self::Busy { permits } => Some(format!("{permits} statements run at once")),
            Self::Memory { source } => Some(crate::engine_error::clean(&source.to_string())),
            _ => None,
        }
    }

    /// What may help.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Sql(problem) => return problem.hint.clone(),
            Self::ReadOnly { .. } => {
                "the query doors only read; rows are written by the operational services".into()
            }
            Self::TransactionAborted => "send rollback, then go on".into(),
            Self::Timeout { .. } => "narrow the statement, or raise statement_timeout".into(),
            Self::TooManyRows { .. } => {
                "add a limit, or fetch it as csv or arrow or through the Postgres door".into()
            }
            Self::Memory { .. } => "narrow the statement, or raise the memory limit".into(),
            Self::Busy { .. } => "try again".into(),
            _ => return None,
        })
    }

    /// Where in the statement, in characters from 1.
    #[must_use]
    pub fn position(&self) -> Option<usize> {
        match self {
            Self::Sql(problem) => problem.position,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrow_code_wins_over_the_kind() {
        let read_only = QueryError::ReadOnly { command: "INSERT".into() };
        assert_eq!((read_only.kind(), read_only.sqlstate()), (Kind::Denied, "25006"));
        let timeout = QueryError::Timeout { limit_ms: 5 };
        assert_eq!((timeout.kind(), timeout.sqlstate()), (Kind::Exhausted, "57014"));
        let table: QueryError = SqlProblem::new(SqlCode::UndefinedTable, "x").into();
        assert_eq!((table.kind(), table.sqlstate()), (Kind::NotFound, "42P01"));
        let unsupported = QueryError::Unsupported { what: "x".into() };
        assert_eq!(unsupported.sqlstate(), "0A000");
    }
}
