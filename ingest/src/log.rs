//! What a database is to ingest: a log of changes, and rows that can be asked for beside it.
//! [`crate::snapshot`] makes a [`Source`](crate::source::Source) of the two.

use std::{fmt, sync::Arc};

use arrow::record_batch::RecordBatch;
use futures::future::BoxFuture;
use medlake_contract::{SourceId, TableName, TableSchema};

use crate::{
    CutLimits, IngestError,
    source::{Acknowledge, Gauges, Page, Quarantined},
};

/// A database's log of changes.
pub(crate) trait Log: fmt::Debug + Send {
    /// A place in the log, between two transactions. Its text is what is stored.
    type Place: Clone + fmt::Debug + fmt::Display + Send + Sync;

    /// The source's name; the namespace of its tables.
    fn id(&self) -> &SourceId;

    /// A place from its text.
    ///
    /// # Errors
    /// [`IngestError::ForeignPosition`] when it is not one of this log.
    fn place(&self, text: &str) -> Result<Self::Place, IngestError>;

    /// Where the log ends now: what is committed later is after it, and what is before it is seen by
    /// every select that begins later.
    fn end(&mut self) -> BoxFuture<'_, Result<Self::Place, IngestError>>;

    /// Reads on from `at`, where the tables are as in `tables`, as far as they are known.
    ///
    /// # Errors
    /// When the log does not go back to `at`, or never got there.
    fn start<'a>(
        &'a mut self,
        at: &'a Self::Place,
        tables: &'a [Arc<TableSchema>],
    ) -> BoxFuture<'a, Result<(), IngestError>>;

    /// The cursor.
    fn at(&self) -> &Self::Place;

    /// Whether the cursor has everything that is before `place`.
    fn reached(&self, place: &Self::Place) -> bool;

    /// The tables as they are at the cursor.
    fn tables(&self) -> Vec<Arc<TableSchema>>;

    /// As [`Source::read`](crate::source::Source::read); the position of its pages is left out, and
    /// so are all states.
    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>>;

    /// As [`Source::wait`](crate::source::Source::wait).
    fn wait(&mut self) -> BoxFuture<'_, ()>;

    /// Leaves out the changes of `table` from now on, or takes them in again.
    fn leave_out(&mut self, table: &TableName, leave_out: bool);

    /// As [`Source::acknowledge`](crate::source::Source::acknowledge); positions are
    /// `Position::Log` with the text of a place.
    fn acknowledge(&self) -> Arc<dyn Acknowledge>;

    /// As [`Source::gauges`](crate::source::Source::gauges).
    fn gauges(&self) -> Arc<Gauges>;
}

/// The rows of a database, on a connection of their own.
pub(crate) trait Rows: fmt::Debug + Send {
    /// A place in the log of the same database.
    type Place: Clone + fmt::Debug + fmt::Display + Send + Sync;

    /// The tables that are to be taken in, as they are now; and those that cannot be, with the
    /// reason and the remedy.
    fn tables(&mut self) -> BoxFuture<'_, Result<FoundTables, IngestError>>;

    /// Up to `limit` rows after the key `after`, in the order of
    /// [`CopyScope::Range`](medlake_contract::CopyScope::Range); for a table without a key all rows.
    /// They are as they were at one moment between the call and its answer.
    fn chunk<'a>(
        &'a mut self,
        table: &'a TableSchema,
        after: Option<&'a RecordBatch>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Chunk<Self::Place>, IngestError>>;

    /// The rows with these keys that exist.
    fn with_keys<'a>(
        &'a mut self,
        table: &'a TableSchema,
        keys: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<Chunk<Self::Place>, IngestError>>;
}

/// Rows as they were at one moment.
#[derive(Debug)]
pub(crate) struct Chunk<P> {
    pub(crate) rows: RecordBatch,
    /// That moment in the log, where the database can tell: everything before the place is in the
    /// rows, nothing after it is.
    pub(crate) at: Option<P>,
    /// Rows that could not be read, and are not in `rows`.
    pub(crate) bad: Vec<Quarantined>,
}

/// What tables a database has for us.
#[derive(Debug, Default)]
pub(crate) struct FoundTables {
    pub(crate) tables: Vec<Arc<TableSchema>>,
    /// Those that cannot be taken in: name, reason, remedy.
    pub(crate) refused: Vec<(TableName, String, String)>,
}
