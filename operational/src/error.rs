use medlake_contract::Kind;
use sqlx::{error::DatabaseError, mysql::MySqlDatabaseError};
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
    /// Nothing is called so.
    #[error("{what} \"{name}\" does not exist")]
    Unknown {
        /// The kind of thing, as the API names it.
        what: &'static str,
        /// What it was called.
        name: String,
    },
    /// The present state of the thing forbids it.
    #[error("{message}")]
    Conflict {
        /// Which state, for the caller.
        message: String,
    },
    /// Who asks may not do this.
    #[error("{message}")]
    Denied {
        /// What, for the caller.
        message: String,
    },
    /// The request says not, or not credibly, who asks.
    #[error("{message}")]
    Unauthenticated {
        /// What is wrong with what it says, for the caller.
        message: String,
    },
    /// Where files are kept was not said.
    #[error("there is no place for files; set operational.files")]
    NoFiles,
    /// The place where files are kept failed.
    #[error("the place where files are kept failed")]
    Files {
        /// What it said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The body of a request is longer than the service reads.
    #[error("the request body is too long")]
    TooLong,
    /// Another row has what only one may have.
    #[error("another row has what only one may have")]
    Taken {
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
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
    /// Two transactions wait for each other's rows, and this one was undone.
    #[error("another transaction was in the way")]
    Contended {
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
    /// The file of master keys cannot be used.
    #[error("the file of master keys \"{file}\" {problem}")]
    Key {
        /// The file.
        file: std::path::PathBuf,
        /// Why, and what to do.
        problem: &'static str,
        /// What the system said.
        #[source]
        source: Option<std::io::Error>,
    },
    /// No master keys were given, so nothing can be encrypted.
    #[error("there are no master keys to encrypt identifiers with; set operational.key_file")]
    NoKeys,
    /// What was stored encrypted was changed by others, or put in another place.
    #[error("an encrypted {what} is not what was written")]
    Tampered {
        /// Of what kind it is.
        what: &'static str,
    },
    /// The system gave no random bytes, or encryption failed.
    #[error("could not encrypt")]
    Encryption,
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

    /// Of a change that is of another version than what is there.
    pub(crate) fn changed_meanwhile(what: &str, id: i64, version: i64) -> Self {
        Self::conflict(format!("{what} {id} was changed meanwhile: it is not of version {version}"))
    }

    pub(crate) fn files(source: object_store::Error) -> Self {
        Self::Files { source: Box::new(source) }
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::Denied { message: message.into() }
    }

    pub(crate) const fn not_found(what: &'static str, id: i64) -> Self {
        Self::NotFound { what, id }
    }

    pub(crate) fn unknown(what: &'static str, name: &str) -> Self {
        Self::Unknown { what, name: name.to_owned() }
    }

    /// That of an owner who is not there or another one, told of what was asked for itself: nobody learns
    /// that it is there, nor whose it is.
    pub(crate) fn of(self, what: &'static str, id: i64) -> Self {
        match self {
            Self::NotFound { .. } => Self::not_found(what, id),
            other => other,
        }
    }

    /// That of a row that is there already, told in the caller's words.
    pub(crate) fn or_taken(self, message: impl FnOnce() -> String) -> Self {
        match self {
            Self::Taken { .. } => Self::conflict(message()),
            other => other,
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::TooLong | Self::Constraint { .. } => Kind::Invalid,
            Self::NotFound { .. } | Self::Unknown { .. } => Kind::NotFound,
            Self::Conflict { .. } | Self::Taken { .. } => Kind::Conflict,
            Self::NoFiles => Kind::Unavailable,
            Self::Files { source } => match **source {
                object_store::Error::NotFound { .. } => Kind::Corrupt,
                _ => Kind::Unavailable,
            },
            Self::Denied { .. } | Self::Unauthenticated { .. } => Kind::Denied,
            Self::Busy { .. } | Self::Contended { .. } => Kind::Unavailable,
            Self::Migration { .. } | Self::Stored { .. } | Self::Tampered { .. } => Kind::Corrupt,
            Self::Database { source } => match database_code(source) {
                Some(Code::Sqlite(11 | 26)) => Kind::Corrupt,
                // Disk full, of a file and of a server.
                Some(Code::Sqlite(13) | Code::MySql(1021 | 1114)) => Kind::Exhausted,
                Some(_) => Kind::Internal,
                // The server is not there, or no longer.
                None => match source {
                    sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => Kind::Unavailable,
                    _ => Kind::Internal,
                },
            },
            Self::Undeclared { .. }
            | Self::Folder { .. }
            | Self::Key { .. }
            | Self::NoKeys
            | Self::Encryption => Kind::Internal,
        }
    }
}

/// The number of an error of a database.
#[derive(Debug, Clone, Copy)]
enum Code {
    /// The primary result code, without its extension.
    Sqlite(i32),
    MySql(u16),
}

fn database_code(error: &sqlx::Error) -> Option<Code> {
    let error = error.as_database_error()?;
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return Some(Code::MySql(error.number()));
    }
    let extended: i32 = error.code()?.parse().ok()?;
    Some(Code::Sqlite(extended & 0xff))
}

impl From<sqlx::Error> for OperationalError {
    fn from(source: sqlx::Error) -> Self {
        if source.as_database_error().is_some_and(DatabaseError::is_unique_violation) {
            return Self::Taken { source };
        }
        match (database_code(&source), &source) {
            // MySQL: null, a foreign key, a value out of range or too long, `signal`, a check.
            (
                Some(
                    Code::Sqlite(19)
                    | Code::MySql(
                        1048 | 1216 | 1217 | 1264 | 1406 | 1451 | 1452 | 1644 | 3819 | 4025,
                    ),
                ),
                _,
            ) => Self::Constraint { source },
            // MySQL: a lock waited for in vain, a deadlock, a row that changed since it was read.
            (Some(Code::MySql(1205 | 1213 | 1020)), _) => Self::Contended { source },
            (Some(Code::Sqlite(5 | 6)), _) | (_, sqlx::Error::PoolTimedOut) => {
                Self::Busy { source }
            }
            _ => Self::Database { source },
        }
    }
}
