use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use medlake_contract::{
    ChangeBatch, Position, Positions, RowCopy, SchemaChange, SourceId, TableName, TableSchema,
};

use crate::{CutLimits, IngestError, budget::Held};

/// A log of changes that is read from a place on.
///
/// A source keeps its own cursor: each [`Source::read`] goes on where the last one that answered a
/// page ended. Reading and waiting are cancel-safe: a call that is dropped has moved nothing.
pub(crate) trait Source: fmt::Debug + Send {
    /// The source's name; the namespace of its tables.
    fn id(&self) -> &SourceId;

    /// The tables as they are at the cursor.
    fn tables(&self) -> Vec<Arc<TableSchema>>;

    /// Goes to where `resume` says reading ended. Called once, before anything is read.
    fn resume<'a>(&'a mut self, resume: &'a Resume) -> BoxFuture<'a, Result<(), IngestError>>;

    /// Whole transactions after the cursor until a limit is reached, if there are any; does not wait
    /// for any to come.
    ///
    /// After an error of a retryable kind the next call goes on at the same place.
    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>>;

    /// Waits until there may be something to read. Waking for nothing is fine.
    fn wait(&mut self) -> BoxFuture<'_, ()>;

    /// What lets the source forget.
    fn acknowledge(&self) -> Arc<dyn Acknowledge>;

    /// Takes no changes of `table` from now on, until it is copied again; the next page has its
    /// [`TableState`].
    fn stop(&mut self, table: &TableName, reason: String, remedy: String);

    /// Copies the rows of `table` again, beside the stream; this is also what takes in a table that
    /// was stopped.
    ///
    /// # Errors
    /// When there is no such table, or the source has no rows to ask for.
    fn resync(&mut self, table: &TableName) -> Result<(), IngestError>;

    /// As [`Self::resync`] for all tables, also those the source cannot go on with because its log does
    /// not go back to where reading ended. Tables that are stopped are taken in again.
    ///
    /// # Errors
    /// When the source has no rows to ask for.
    fn resync_all(&mut self) -> Result<(), IngestError> {
        Err(IngestError::Source { at: self.id().clone(), problem: "has no rows to ask for" })
    }

    /// Reads the rows of `table` to be compared with what is there: pages have them in
    /// [`Page::compared`] until [`Self::is_comparing`] is over.
    ///
    /// # Errors
    /// When there is no such table, or the source has no rows to ask for.
    fn compare(&mut self, _table: &TableName) -> Result<(), IngestError> {
        Err(IngestError::Source { at: self.id().clone(), problem: "has no rows to ask for" })
    }

    /// Whether there is more to come of rows to be compared.
    ///
    /// # Errors
    /// With the reason when not all of them could be read.
    fn is_comparing(&self, _table: &TableName) -> Result<bool, String> {
        Ok(false)
    }

    /// Reads changes again that are in quarantine, given by their ids and what could be read of their
    /// keys; pages release those that are good now. Answers of how many that can be tried.
    ///
    /// # Errors
    /// When there is no such table, or the source has no way to read them again.
    fn retry(
        &mut self,
        _table: &TableName,
        _changes: &[QuarantinedRow],
    ) -> Result<usize, IngestError> {
        Err(IngestError::Source { at: self.id().clone(), problem: "cannot read changes again" })
    }

    /// How it is doing: the source writes its lag, [`Ingest`](crate::Ingest) the rest.
    fn gauges(&self) -> Arc<Gauges>;
}

/// Lets a source forget what is durable at the reader's.
pub(crate) trait Acknowledge: fmt::Debug + Send + Sync {
    /// What is at or before `position` is not asked for again. Answers how many changes were
    /// forgotten. Doing it again is always right.
    fn acknowledge<'a>(&'a self, position: &'a Position)
    -> BoxFuture<'a, Result<u64, IngestError>>;
}

/// Where reading ended, as whoever stored it says.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// How far each source is contained.
    pub positions: Positions,
    /// The tables that are there, of all sources, as they are there.
    pub tables: Vec<Arc<TableSchema>>,
    /// How the copying of tables stands: the rows of [`states_table`](crate::states_table).
    pub states: Vec<TableState>,
    /// What is in quarantine: the rows of [`quarantine_table`](crate::quarantine_table).
    pub quarantined: Vec<QuarantinedRow>,
}

/// What one source has to say since its last page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Where the source stands once all of it is contained; none when it does not stand anywhere
    /// else than before.
    pub(crate) position: Option<Position>,
    /// Before everything else: see [`ChangeSet::schemas`](medlake_contract::ChangeSet::schemas). A
    /// page with any begins right at them: the page before ended there.
    pub(crate) schemas: Vec<SchemaChange>,
    pub(crate) batches: Vec<ChangeBatch>,
    pub(crate) copies: Vec<RowCopy>,
    /// See [`ChangeSet::compared`](medlake_contract::ChangeSet::compared).
    pub(crate) compared: Vec<RowCopy>,
    /// Whether there may be tables that nothing is known of, to be asked for. Only a log says that.
    pub(crate) has_new_tables: bool,
    /// States that are new, to be stored with the page.
    pub(crate) states: Vec<TableState>,
    /// Changes that could not be read, to be stored with the page.
    pub(crate) quarantined: Vec<Quarantined>,
    /// Earlier quarantined changes that are repaired or overtaken, by [`Quarantined::id`].
    pub(crate) released: Vec<(TableName, String)>,
    pub(crate) row_count: usize,
    /// Bytes as the source sent them.
    pub(crate) byte_count: usize,
    pub(crate) transaction_count: u64,
    pub(crate) committed_at_micros: Option<i64>,
    /// See [`ChangeSet::open`](medlake_contract::ChangeSet::open).
    pub(crate) open: bool,
    /// Its share of the budget, given back when the page is dropped.
    pub(crate) held: Held,
}

impl Page {
    /// Whether there is nothing in it to be stored, but perhaps where the source stands.
    pub(crate) fn is_empty(&self) -> bool {
        self.schemas.is_empty()
            && self.batches.is_empty()
            && self.copies.is_empty()
            && self.compared.is_empty()
            && self.states.is_empty()
            && self.quarantined.is_empty()
            && self.released.is_empty()
    }

    /// Whether there is anything in it of a table.
    pub(crate) fn speaks_of(&self, table: &TableName) -> bool {
        self.schemas.iter().any(|change| change.table.name() == table)
            || self.batches.iter().any(|batch| batch.table().name() == table)
            || self.copies.iter().chain(&self.compared).any(|copy| copy.table.name() == table)
            || self.states.iter().any(|state| state.table == *table)
            || self.quarantined.iter().any(|change| change.table == *table)
            || self.released.iter().any(|(of, _)| of == table)
    }
}

/// How a table is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its existing rows are being copied, beside its changes.
    Snapshotting,
    /// All its rows are there, and its changes follow.
    Streaming,
    /// Nothing of it is taken in; the state says why and what to do.
    Stopped,
}

impl Phase {
    /// The word stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshotting => "snapshotting",
            Self::Streaming => "streaming",
            Self::Stopped => "stopped",
        }
    }
}

/// The state of one table, stored with the data it speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// The table; its namespace is the source.
    pub table: TableName,
    /// How it is taken in.
    pub phase: Phase,
    /// Why it is stopped.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Rows copied so far, while or since it was last copied.
    pub copied_rows: u64,
    /// Changes in quarantine.
    pub quarantined: u64,
    /// What the source needs to go on copying after a restart, in its own words (JSON).
    pub progress: Option<String>,
    /// Since when it is in this phase, in microseconds since 1970 (UTC).
    pub since_micros: i64,
}

impl TableState {
    /// Nothing of `table` is taken in. Who hands it out fills in the rest.
    pub(crate) fn stopped(table: TableName, reason: String, remedy: String) -> Self {
        Self {
            phase: Phase::Stopped,
            reason: Some(reason),
            remedy: Some(remedy),
            ..Self::new(table, Phase::Stopped, 0)
        }
    }

    /// A table that came to this phase at a time, in microseconds since 1970 (UTC).
    pub(crate) fn new(table: TableName, phase: Phase, since_micros: i64) -> Self {
        Self {
            table,
            phase,
            reason: None,
            remedy: None,
            copied_rows: 0,
            quarantined: 0,
            progress: None,
            since_micros,
        }
    }
}

/// A change that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quarantined {
    pub(crate) table: TableName,
    /// Unique in its table, and the same when the same change is read again.
    pub(crate) id: String,
    /// Where it is in the source's log, in the source's words.
    pub(crate) at: String,
    /// `c`, `u`, `d`, or what else the source says.
    pub(crate) op: String,
    /// The key as JSON, when that much could be read.
    pub(crate) key: Option<String>,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// The bytes as the source sent them.
    pub(crate) raw: Vec<u8>,
    pub(crate) committed_at_micros: Option<i64>,
}

/// What is stored of a change that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The table; its namespace is the source.
    pub table: TableName,
    /// Unique in its table.
    pub id: String,
    /// `c`, `u`, `d`, or what else the source says.
    pub op: String,
    /// The key, when that much could be read: a JSON array of the key columns' values as texts.
    pub key: Option<String>,
    /// The bytes as the source sent them.
    pub raw: Vec<u8>,
}

/// How a source is doing, now and since the process started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceHealth {
    /// `embedded`, `mysql` or `kafka`.
    pub kind: &'static str,
    /// Why it cannot be read at the moment, if it cannot, and what to do.
    pub failing: Option<String>,
    /// Row changes and copied rows taken in.
    pub rows: u64,
    /// Bytes taken in, as the source sent them.
    pub bytes: u64,
    /// Transactions taken in.
    pub transactions: u64,
    /// Rows of the newest page.
    pub page_rows: u64,
    /// Bytes of the log that are not taken in yet, where the source can tell.
    pub lag_bytes: Option<u64>,
    /// Changes or messages that are not taken in yet, where the source can tell.
    pub lag_rows: Option<u64>,
    /// When the newest transaction taken in was committed, in microseconds since 1970 (UTC).
    pub committed_at_micros: Option<i64>,
    /// Whether everything the source had when it was last looked at is taken in.
    pub caught_up: bool,
}

/// Where a source writes how it is doing, and others read it at any time.
#[derive(Debug, Default)]
pub(crate) struct Gauges(Mutex<SourceHealth>);

impl Gauges {
    pub(crate) fn new(kind: &'static str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SourceHealth { kind, ..SourceHealth::default() })))
    }

    pub(crate) fn read(&self) -> SourceHealth {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut SourceHealth)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a page that is handed out.
    pub(crate) fn count(&self, page: &Page) {
        self.update(|health| {
            health.rows += page.row_count as u64;
            health.bytes += page.byte_count as u64;
            health.transactions += page.transaction_count;
            health.page_rows = page.row_count as u64;
            health.committed_at_micros = health.committed_at_micros.max(page.committed_at_micros);
        });
    }
}
