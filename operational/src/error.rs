use medlake_contract::Kind;
use thiserror::Error;

/// Why a service did not do what it was asked. Nothing has changed when one is returned and the
/// transaction is dropped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OperationalError {
    /// The request contradicts itself or a rule that does not depend on stored state.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it, for the caller.
        message: String,
    },
    /// The thing named does not exist, or belongs to another tenant.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// The kind of thing, as the API names it.
        what: &'static str,
        /// Its id.
        id: i64,
    },
    /// The present state of the thing forbids it.
    #[error("{message}")]
    Conflict {
        /// Which state, for the caller.
        message: String,
    },
    /// The body of a request is longer than the service reads.
    #[error("the request body is too long")]
    TooLong,
    /// A row breaks a rule of the schema that the service did not check first.
    #[error("the row breaks a rule of the database")]
    Constraint {
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The database is held by another writer for longer than the service waits.
    #[error("the database is busy")]
    Busy {
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// Any other failure of the database.
    #[error("the database failed")]
    Database {
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A released migration is not what was applied to this database.
    #[error(
        "database \"{database}\" has migration {version} in another form than this program: {problem}"
    )]
    Migration {
        /// The service's database.
        database: &'static str,
        /// The number of the migration.
        version: i64,
        /// How they differ, and what to do.
        problem: &'static str,
    },
    /// A column whose declared type says nothing to change capture.
    #[error(
        "column \"{table}.{column}\" is declared \"{declared}\", which change capture does not know"
    )]
    Undeclared {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its declared type.
        declared: String,
    },
    /// The data folder cannot be made.
    #[error("could not create the folder \"{folder}\"")]
    Folder {
        /// The folder.
        folder: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A stored text is not the JSON it must be.
    #[error("stored {what} is not readable")]
    Stored {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl OperationalError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into() }
    }

    pub(crate) const fn not_found(what: &'static str, id: i64) -> Self {
        Self::NotFound { what, id }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::TooLong | Self::Constraint { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Conflict { .. } => Kind::Conflict,
            Self::Busy { .. } => Kind::Unavailable,
            Self::Migration { .. } | Self::Stored { .. } => Kind::Corrupt,
            Self::Database { source } => match sqlite_code(source) {
                Some(11 | 26) => Kind::Corrupt,
                Some(13) => Kind::Exhausted,
                _ => Kind::Internal,
            },
            Self::Undeclared { .. } | Self::Folder { .. } => Kind::Internal,
        }
    }
}

/// The primary result code of SQLite, without its extension.
fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

impl From<sqlx::Error> for OperationalError {
    fn from(source: sqlx::Error) -> Self {
        match (sqlite_code(&source), &source) {
            (Some(19), _) => Self::Constraint { source },
            (Some(5 | 6), _) | (_, sqlx::Error::PoolTimedOut) => Self::Busy { source },
            _ => Self::Database { source },
        }
    }
}
