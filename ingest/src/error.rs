use medlake_contract::{ContractError, Kind, Position, SourceId};
use thiserror::Error;

use crate::{kafka::KafkaSourceError, mysql::MysqlError};

/// Why changes could not be read or acknowledged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The database of a source could not be opened, read or written.
    #[error("could not {doing} of source \"{at}\"")]
    Database {
        /// The source.
        at: SourceId,
        /// What was attempted, such as `read the changes`.
        doing: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A table of a source that cannot be captured as it is.
    #[error("could not take table \"{table}\" of source \"{at}\": {problem}")]
    Schema {
        /// The source.
        at: SourceId,
        /// The table, without namespace.
        table: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A change row that cannot be decoded. Nothing of its transaction was handed out.
    #[error(
        "could not decode column \"{column}\" of the image {image} of change {change_id} of table \
         \"{table}\" in source \"{at}\""
    )]
    Decode {
        /// The source.
        at: SourceId,
        /// The table, without namespace.
        table: String,
        /// The row of the change table; 0 for a row read in a snapshot.
        change_id: i64,
        /// `before` or `after`.
        image: &'static str,
        /// The column that was being read.
        column: String,
        /// What the decoder found.
        #[source]
        source: serde_json::Error,
    },
    /// A change row that breaks the rules of the change table itself.
    #[error("change {change_id} of table \"{table}\" in source \"{at}\" {problem}")]
    Change {
        /// The source.
        at: SourceId,
        /// The table, without namespace.
        table: String,
        /// The row of the change table.
        change_id: i64,
        /// What is wrong with it.
        problem: String,
    },
    /// A chunk of the change table that came in another form than asked for.
    #[error("could not read the change after {change_id} of source \"{at}\": {problem}")]
    Frame {
        /// The source.
        at: SourceId,
        /// The last row of the change table that was read.
        change_id: i64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The changes right after the position to resume from are gone.
    #[error(
        "could not resume source \"{at}\" from {position}: its changes are trimmed to {trimmed_to}; \
         resume from a lake that holds {trimmed_to} or more, or start an empty lake, which copies \
         the rows as they are now"
    )]
    Trimmed {
        /// The source.
        at: SourceId,
        /// Where reading should have resumed.
        position: Position,
        /// The last change that is gone.
        trimmed_to: Position,
    },
    /// The position to resume from is one the source has not reached: it is another database, or
    /// an older copy of it.
    #[error(
        "could not resume source \"{at}\" from {position}: its newest change is {newest}, so it is \
         another database or an older copy; restore the database that belongs to the lake, or \
         start an empty lake"
    )]
    Ahead {
        /// The source.
        at: SourceId,
        /// Where reading should have resumed.
        position: Position,
        /// The newest change of the source.
        newest: Position,
    },
    /// A position of a form this source does not have.
    #[error("position {position} is not one of source \"{at}\"")]
    ForeignPosition {
        /// The source.
        at: SourceId,
        /// The position.
        position: Position,
    },
    /// A source named in positions that was not opened, or opened twice.
    #[error("source \"{at}\" {problem}")]
    Source {
        /// The source.
        at: SourceId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An acknowledgement of changes that were never handed out.
    #[error(
        "could not acknowledge {position} of source \"{at}\": handed out was {}",
        delivered.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
    )]
    NotDelivered {
        /// The source.
        at: SourceId,
        /// The position acknowledged.
        position: Position,
        /// The newest position handed out, if any.
        delivered: Option<Position>,
    },
    /// Kafka could not be read.
    #[error("could not read Kafka source \"{at}\"")]
    Kafka {
        /// The source.
        at: SourceId,
        /// Why.
        #[source]
        source: KafkaSourceError,
    },
    /// A MySQL or MariaDB server.
    #[error("could not read source \"{at}\"")]
    Mysql {
        /// The source.
        at: SourceId,
        /// What is wrong.
        #[source]
        source: MysqlError,
    },
    /// Rows could not be kept in a file until all of them are read.
    #[error("could not keep rows of source \"{at}\" in {folder}; it needs room for a whole table")]
    Spool {
        /// The source.
        at: SourceId,
        /// Where.
        folder: String,
        /// What went wrong.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// Rows that do not make a change batch: a defect of ours.
    #[error("could not build change batches of source \"{at}\"")]
    Batch {
        /// The source.
        at: SourceId,
        /// What the contract said.
        #[source]
        source: ContractError,
    },
    /// Columns that do not make a record batch: a defect of ours.
    #[error("could not build columns of source \"{at}\"")]
    Arrow {
        /// The source.
        at: SourceId,
        /// What Arrow said.
        #[source]
        source: arrow::error::ArrowError,
    },
}

impl IngestError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Database { source, .. } => database_kind(source),
            Self::Kafka { source, .. } => source.kind(),
            Self::Schema { .. } => Kind::Unsupported,
            Self::Trimmed { .. } | Self::Ahead { .. } => Kind::Conflict,
            Self::Decode { .. } | Self::Change { .. } | Self::Frame { .. } => Kind::Corrupt,
            Self::ForeignPosition { .. } | Self::Source { .. } | Self::NotDelivered { .. } => {
                Kind::Invalid
            }
            Self::Mysql { source, .. } => source.kind(),
            Self::Spool { .. } => Kind::Exhausted,
            Self::Batch { .. } | Self::Arrow { .. } => Kind::Internal,
        }
    }
}

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>).
fn database_kind(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => {
            Kind::Unavailable
        }
        sqlx::Error::Database(e) => {
            let code = e.code().and_then(|c| c.parse::<u32>().ok()).map_or(0, |c| c & 0xff);
            match code {
                5 | 6 | 10 | 14 => Kind::Unavailable, // busy, locked, i/o error, cannot open
                7 | 13 => Kind::Exhausted,            // no memory, disk full
                11 | 26 => Kind::Corrupt,             // corrupt, not a database
                _ => Kind::Internal,
            }
        }
        _ => Kind::Internal,
    }
}
