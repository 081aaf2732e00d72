//! What a database is to ingest: a log of changes, and rows that can be asked for beside it.
//! [`crate::snapshot`] makes a [`Source`](crate::source::Source) of the two.

use std::{fmt, sync::Arc};

use arrow::record_batch::RecordBatch;
use futures::future::{BoxFuture, FutureExt, ready};
use medlake_contract::{Position, SourceId, TableName, TableSchema};

use crate::{
    CutLimits, IngestError,
    source::{Acknowledge, Gauges, Page, Quarantined},
};

/// A database's log of changes.
pub(crate) trait Log: fmt::Debug + Send + 'static {
    /// A place in the log, between two transactions. Its text is what is stored.
    type Place: Clone + fmt::Debug + fmt::Display + Send + Sync + 'static;

    /// The source's name; the namespace of its tables.
    fn id(&self) -> &SourceId;

    /// A place from its text.
    ///
    /// # Errors
    /// [`IngestError::ForeignPosition`] when it is not one of this log.
    fn place(&self, text: &str) -> Result<Self::Place, IngestError>;

    /// A place as it is stored, after so many steps.
    fn position(&self, place: &Self::Place, step: u64) -> Position {
        Position::Log { step, at: place.to_string() }
    }

    /// A place as it was stored.
    ///
    /// # Errors
    /// [`IngestError::ForeignPosition`] when it is not one of this log.
    fn place_of(&self, position: &Position) -> Result<Self::Place, IngestError> {
        match position {
            Position::Log { at, .. } => self.place(at),
            _ => Err(IngestError::ForeignPosition {
                at: self.id().clone(),
                position: position.clone(),
            }),
        }
    }

    /// The place before everything that ever happened to the tables, if the log has all of it: then
    /// nothing needs to be copied.
    fn whole(&mut self) -> BoxFuture<'_, Result<Option<Self::Place>, IngestError>> {
        ready(Ok(None)).boxed()
    }

    /// Where the log ends now: what is committed later is after it, and what is before it is seen by
    /// every select that begins later.
    fn end(&self) -> BoxFuture<'static, Result<Self::Place, IngestError>>;

    /// Reads on from `at`, where the tables are as in `tables`, as far as they are known. May be
    /// called again: at another place, or after a call that failed or was dropped.
    ///
    /// # Errors
    /// Of kind `Conflict` when the log does not go back to `at`, or never got there.
    fn start<'a>(
        &'a mut self,
        at: &'a Self::Place,
        tables: &'a [Arc<TableSchema>],
    ) -> BoxFuture<'a, Result<(), IngestError>>;

    /// The cursor.
    fn at(&self) -> &Self::Place;

    /// Whether the cursor has everything that is before `place`. Transactions that touch none of the
    /// tables move the cursor too.
    fn reached(&self, place: &Self::Place) -> bool;

    /// The tables as they are at the cursor.
    fn tables(&self) -> Vec<Arc<TableSchema>>;

    /// As [`Source::read`](crate::source::Source::read); the position of its pages is left out. States
    /// are those of tables that it takes no changes of from here on ([`TableState::stopped`]), or whose rows
    /// have to be copied again, for the reason they give.
    ///
    /// [`TableState::stopped`]: crate::TableState::stopped
    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>>;

    /// Ends a page right at this place from now on, should it be there; none for no place. Answers
    /// whether it does.
    fn stop_at(&mut self, _place: Option<&Self::Place>) -> bool {
        false
    }

    /// As [`Source::wait`](crate::source::Source::wait).
    fn wait(&mut self) -> BoxFuture<'_, ()>;

    /// Leaves out the changes of `table` from now on, or takes them in again.
    fn leave_out(&mut self, table: &TableName, leave_out: bool);

    /// As [`Source::acknowledge`](crate::source::Source::acknowledge), of [`Self::position`].
    fn acknowledge(&self) -> Arc<dyn Acknowledge>;

    /// As [`Source::gauges`](crate::source::Source::gauges).
    fn gauges(&self) -> Arc<Gauges>;
}

/// The rows of a database, on a connection of their own.
pub(crate) trait Rows: fmt::Debug + Send + 'static {
    /// A place in the log of the same database.
    type Place: Clone + fmt::Debug + fmt::Display + Send + Sync + 'static;

    /// The tables that are to be taken in, as they were at a place, or as they are now where the
    /// database cannot tell; and those that cannot be, with the reason and the remedy.
    fn tables<'a>(
        &'a mut self,
        at: &'a Self::Place,
    ) -> BoxFuture<'a, Result<FoundTables, IngestError>>;

    /// Up to `limit` rows after the key `after`, in an order, none of them after the key `to`. They
    /// are as they were at one moment between the call and its answer, or as those right before them
    /// were ([`Chunk::goes_on`]). Fewer than `limit`, with those that could not be read, are the last.
    ///
    /// Of a table without a key, any `limit` of its rows, all of which can be read: [`Self::more`] has
    /// the others.
    fn chunk<'a>(
        &'a mut self,
        table: &'a TableSchema,
        after: Option<&'a RecordBatch>,
        to: Option<&'a RecordBatch>,
        limit: usize,
        order: Order,
    ) -> BoxFuture<'a, Result<Chunk<Self::Place>, IngestError>>;

    /// After a chunk of a table without a key: its next rows, as of the same moment, until there are
    /// none. Any other call ends that.
    fn more(&mut self) -> BoxFuture<'_, Result<Option<RecordBatch>, IngestError>> {
        ready(Ok(None)).boxed()
    }

    /// Keys that part a table into about `parts` ranges of as many rows; none is no wish to.
    fn split<'a>(
        &'a mut self,
        _table: &'a TableSchema,
        _parts: usize,
    ) -> BoxFuture<'a, Result<Vec<RecordBatch>, IngestError>> {
        ready(Ok(Vec::new())).boxed()
    }

    /// The rows with these keys that exist.
    fn with_keys<'a>(
        &'a mut self,
        table: &'a TableSchema,
        keys: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<Chunk<Self::Place>, IngestError>>;
}

/// In which order rows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// That of [`CopyScope::Range`](medlake_contract::CopyScope::Range).
    Keys,
    /// Whichever is quick: always the same one, and that of the keys for a table that can be parted.
    Any,
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
    /// Whether the chunk after these rows is of the same moment, should nothing else be asked for
    /// before.
    pub(crate) goes_on: bool,
}

/// What tables a database has for us.
#[derive(Debug, Default)]
pub(crate) struct FoundTables {
    pub(crate) tables: Vec<Arc<TableSchema>>,
    /// Those that cannot be taken in: name, reason, remedy.
    pub(crate) refused: Vec<(TableName, String, String)>,
}
