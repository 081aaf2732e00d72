use std::{io::ErrorKind, path::PathBuf, sync::Arc};

use medlake_contract::{Kind, TableName};
use thiserror::Error;

/// What can go wrong with the lake.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LakeError {
    /// A table nobody created.
    #[error("table \"{table}\" is not in the lake")]
    UnknownTable {
        /// The table.
        table: TableName,
    },
    /// A table that the view asked does not have, with the reason.
    #[error("table \"{table}\" cannot be read")]
    LeftOut {
        /// The table.
        table: TableName,
        /// Why not.
        #[source]
        source: Arc<LakeError>,
    },
    /// A snapshot id that no table has, or no longer has.
    #[error("no table has a snapshot {id}, or no longer")]
    UnknownSnapshot {
        /// The id.
        id: i64,
    },
    /// A point of the past that a table cannot be read as of.
    #[error("table \"{table}\" cannot be read as of {as_of}: {problem}")]
    AsOf {
        /// The table.
        table: TableName,
        /// The point asked for.
        as_of: String,
        /// Why not.
        problem: String,
    },
    /// A text that is no point of the past.
    #[error("\"{text}\" is neither a snapshot id nor a time such as 2026-11-20T10:00:00Z")]
    AsOfText {
        /// The text.
        text: String,
    },
    /// A declared table that the stored one cannot become.
    #[error("table \"{table}\" cannot change to the declared columns: {problem}")]
    Schema {
        /// The table.
        table: TableName,
        /// What is incompatible.
        problem: String,
    },
    /// A layout that the table cannot have. Nothing was changed.
    #[error("table \"{table}\" cannot have the declared options: {problem}")]
    Options {
        /// The table.
        table: TableName,
        /// What is wrong with them.
        problem: String,
    },
    /// Rows that the table cannot hold. Nothing of their change set was applied.
    #[error("changes of table \"{table}\" cannot be applied: {problem}")]
    Rows {
        /// The table.
        table: TableName,
        /// What is wrong with them.
        problem: String,
    },
    /// Changes of a table whose key index is still being built.
    #[error(
        "changes of table \"{table}\" cannot be applied before its key index is there: await the \
         loading of indexes first"
    )]
    IndexNotLoaded {
        /// The table.
        table: TableName,
    },
    /// Another process has the lake open.
    #[error("lake folder {root:?} is in use by another process")]
    Locked {
        /// The folder.
        root: PathBuf,
    },
    /// Another writer took the lake over; this one must stop.
    #[error("lake was taken over by writer epoch {current}; this is epoch {own}")]
    Fenced {
        /// The epoch of this writer.
        own: i64,
        /// The epoch in the catalog.
        current: i64,
    },
    /// Somebody else committed to a table between our reading and our commit.
    #[error(
        "could not commit table \"{table}\": the catalog points to other metadata than expected"
    )]
    CommitConflict {
        /// The table.
        table: TableName,
    },
    /// A commit is in some of its tables only, and another program built on it.
    #[error(
        "table \"{table}\" has its part of a commit that other tables lack, and another program changed \
         it since: set it back to the snapshot before that commit, or take the change back"
    )]
    HalfCommitted {
        /// The table.
        table: TableName,
    },
    /// The answer to a commit was lost and the catalog could not be asked since. The next flush
    /// asks again before it does anything else.
    #[error("could not learn whether the commit was made")]
    CommitUnknown {
        /// What the catalog answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that could not be read or written.
    #[error("could not {doing} \"{location}\"")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file: its path or address.
        location: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The catalog did not do what was asked.
    #[error("could not {doing} in the catalog")]
    Catalog {
        /// What was attempted.
        doing: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The catalog's server does not allow or does not understand what was asked, and would say so
    /// again.
    #[error("the catalog refused to {doing}")]
    CatalogDenied {
        /// What was attempted.
        doing: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Table metadata that could not be read, built or written.
    #[error("could not {doing} of table \"{table}\"")]
    Metadata {
        /// What was attempted.
        doing: &'static str,
        /// The table.
        table: TableName,
        /// Why not.
        #[source]
        source: Box<iceberg::Error>,
    },
    /// A Parquet file that could not be read or written.
    #[error("could not {doing} \"{location}\"")]
    Parquet {
        /// What was attempted.
        doing: &'static str,
        /// The file: its path or address.
        location: String,
        /// Why not.
        #[source]
        source: Box<parquet::errors::ParquetError>,
    },
    /// The Delta log of a table could not be read or written.
    #[error("could not {doing} of table \"{table}\"")]
    Delta {
        /// What was attempted.
        doing: &'static str,
        /// The table.
        table: TableName,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Rows that Arrow could not put into the shape needed.
    #[error("could not {doing} of table \"{table}\"")]
    Arrow {
        /// What was attempted.
        doing: &'static str,
        /// The table.
        table: TableName,
        /// Why not.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// A stored table uses a feature that is not understood. It is never guessed at.
    #[error("table \"{table}\" uses {feature}, which is not supported")]
    Unsupported {
        /// The table.
        table: TableName,
        /// The feature.
        feature: String,
    },
    /// Stored data that contradicts itself.
    #[error("table \"{table}\" is damaged: {problem}")]
    Corrupt {
        /// The table.
        table: TableName,
        /// The contradiction.
        problem: String,
    },
    /// A task of the lake was cancelled or failed; a defect of ours.
    #[error("a background task of the lake did not finish")]
    Task {
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl LakeError {
    /// Whether a file was not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == ErrorKind::NotFound)
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::LeftOut { source, .. } => source.kind(),
            Self::File { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::File { source, .. } if source.kind() == ErrorKind::Unsupported => {
                Kind::Unsupported
            }
            Self::UnknownTable { .. } | Self::UnknownSnapshot { .. } | Self::AsOf { .. } => {
                Kind::NotFound
            }
            Self::Schema { .. }
            | Self::Options { .. }
            | Self::Rows { .. }
            | Self::AsOfText { .. } => Kind::Invalid,
            Self::Locked { .. }
            | Self::Fenced { .. }
            | Self::CommitConflict { .. }
            | Self::HalfCommitted { .. } => Kind::Conflict,
            Self::IndexNotLoaded { .. }
            | Self::CommitUnknown { .. }
            | Self::File { .. }
            | Self::Catalog { .. }
            | Self::Delta { .. } => Kind::Unavailable,
            Self::Parquet { source, .. } => behind(source).unwrap_or(Kind::Corrupt),
            Self::Metadata { .. } | Self::Corrupt { .. } => Kind::Corrupt,
            Self::Arrow { source, .. } => behind(source).unwrap_or(Kind::Internal),
            Self::Task { .. } => Kind::Internal,
            Self::CatalogDenied { .. } => Kind::Denied,
            Self::Unsupported { .. } => Kind::Unsupported,
        }
    }
}

/// The kind of our own error that a library passes on, such as that of a file that is away.
fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|error| Some(error.downcast_ref::<LakeError>()?.kind()))
}
