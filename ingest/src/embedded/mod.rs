pub(crate) mod columns;
pub(crate) mod decode;
pub(crate) mod frames;
pub(crate) mod log;
mod rows;
pub(crate) mod schema;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod targets;
mod trim;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{SourceId, TableName, TableSchema};
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    AnySource, Budget, CutLimits, DatabaseSettings, IngestError, Wake,
    log::Log as _,
    snapshot::Database,
    source::{Acknowledge, Gauges, Page, QuarantinedRow, Resume, Source},
};
use log::EmbeddedLog;
use rows::EmbeddedRows;
use trim::Trimmer;

/// How long a statement waits for another connection's write before it is `Unavailable`.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Memory for copied rows of a source that was given none.
const OWN_BUDGET: usize = 64 << 20;

/// Rows in flight between SQLite's thread and the decoder.
pub(crate) const ROW_BUFFER: usize = 1024;

/// An embedded SQLite database whose triggers record each row change.
///
/// The database has four tables besides its own:
/// - `cdc_transaction(tx_id, committed_at)`: a row for each writing transaction, `committed_at` in
///   microseconds since 1970 (UTC).
/// - `cdc_change(change_id, tx_id, table_name, op, before, after)`: a row for each changed row, in
///   order; `op` is `c`, `u` or `d`. An image is a JSON array of the row's columns in table order;
///   bytes are hexadecimal text, reals are text of 17 significant digits, a row from before a
///   column was added is shorter.
/// - `cdc_trimmed(only_row, trimmed_to)`: the newest change ever deleted from `cdc_change`.
/// - `cdc_schema(schema_id, change_id, table_name, before, after, reread)`: what a table's columns were
///   and are, from which change on; see `after` of its changes, `[table, before, after, reread]`.
///
/// SQLite has one writer at a time, so the order of `change_id` is the order of commits, and what
/// one statement sees ends with a whole transaction. A position is the last `change_id` of one.
///
/// Rows are copied only where the changes cannot give them: at first contact, when the change table does
/// not go back to where reading ended, of a table that comes later, and where a migration wrote rows.
/// What a migration makes of a table stands in the change table, as a change of the table `cdc_schema`:
/// each image is read by the columns its table had then. A change that cannot be read goes to quarantine.
///
/// Tables whose names start with `cdc_`, `sqlx_`, `sqlite_`, `_`, `outbox` or `idempotency` are the
/// service's own business and are not captured.
#[derive(Debug)]
pub struct EmbeddedSource(Database<EmbeddedLog, EmbeddedRows>);

impl EmbeddedSource {
    /// Opens the database file of the source `id`, and reads which tables it captures.
    ///
    /// # Errors
    /// When the file is missing or is not a database with a change table, or when a table has no
    /// primary key or a column of a type that is not known.
    pub async fn open(
        id: impl Into<String>,
        path: impl AsRef<Path>,
        wake: Wake,
    ) -> Result<Self, IngestError> {
        let folder = path.as_ref().parent().unwrap_or(Path::new("."));
        let settings = DatabaseSettings::new(Budget::new(OWN_BUDGET), folder, Arc::new(|| 0));
        Self::open_with(id, path, wake, settings).await
    }

    /// As [`Self::open`], with the clock and the memory that other sources use too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        id: impl Into<String>,
        path: impl AsRef<Path>,
        wake: Wake,
        settings: DatabaseSettings,
    ) -> Result<Self, IngestError> {
        let id = SourceId::new(id);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROW_BUFFER)
            // A cut is one long statement by design; sqlx would warn about each.
            .disable_statement_logging();
        let trimmer = Trimmer::open(id.clone(), options.clone()).await?;
        let options = options.read_only(true);
        let log = EmbeddedLog::open(id.clone(), &options, trimmer, wake).await?;
        let rows = EmbeddedRows::open(id, &options).await?;
        // The rows are right here: whatever was trimmed, they are what it made of them.
        let settings = DatabaseSettings { copy_after_gap: true, ..settings };
        Ok(Self(Database::new(log, vec![rows], settings)))
    }
}

impl From<EmbeddedSource> for AnySource {
    fn from(source: EmbeddedSource) -> Self {
        Self(Box::new(source))
    }
}

impl Source for EmbeddedSource {
    fn id(&self) -> &SourceId {
        self.0.id()
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.0.tables()
    }

    fn resume<'a>(&'a mut self, resume: &'a Resume) -> BoxFuture<'a, Result<(), IngestError>> {
        async move {
            // What the database had there is what the lake is given before anything is read.
            let position = resume.positions.get(self.0.id());
            let Some(log) = self.0.log() else { return Ok(()) };
            let place = match position {
                Some(position) => log.place_of(position)?,
                None => match log.whole().await? {
                    Some(place) => place,
                    None => log.end().await?,
                },
            };
            let now = log.tables_at(place).await?;
            self.0.know(now.iter().map(|t| Arc::clone(&t.schema)).collect());
            let now = self.0.tables();
            let is_here = |t: &Arc<TableSchema>| now.iter().any(|n| n.name() == t.name());
            let mut tables = resume.tables.clone();
            tables.retain(|t| !is_here(t));
            let known = resume.tables.iter().filter(|t| is_here(t)).map(|t| t.name());
            let known: Vec<&TableName> = known.collect();
            tables.extend(now.iter().filter(|t| known.contains(&t.name())).cloned());
            self.0.resume_at(&Resume { tables, ..resume.clone() })?;
            self.0.start_now().await
        }
        .boxed()
    }

    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>> {
        self.0.read(limits)
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        self.0.wait()
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        self.0.acknowledge()
    }

    fn stop(&mut self, table: &TableName, reason: String, remedy: String) {
        self.0.stop(table, reason, remedy);
    }

    fn resync(&mut self, table: &TableName) -> Result<(), IngestError> {
        self.0.resync(table)
    }

    fn resync_all(&mut self) -> Result<(), IngestError> {
        self.0.resync_all()
    }

    fn compare(&mut self, table: &TableName) -> Result<(), IngestError> {
        self.0.compare(table)
    }

    fn is_comparing(&self, table: &TableName) -> Result<bool, String> {
        self.0.is_comparing(table)
    }

    fn retry(
        &mut self,
        table: &TableName,
        changes: &[QuarantinedRow],
    ) -> Result<usize, IngestError> {
        self.0.retry(table, changes)
    }

    fn gauges(&self) -> Arc<Gauges> {
        self.0.gauges()
    }
}

/// The ends of a change table.
pub(crate) struct Bounds {
    /// The newest change that was deleted; 0 when none was.
    pub(crate) trimmed_to: u64,
    /// The newest change there ever was; 0 when there was none.
    pub(crate) newest: u64,
}

pub(crate) async fn bounds(connection: &mut SqliteConnection) -> Result<Bounds, sqlx::Error> {
    let (trimmed_to, newest): (i64, i64) = sqlx::query_as(
        "with trimmed as (select coalesce(max(trimmed_to), 0) as change_id from cdc_trimmed)
         select
             trimmed.change_id,
             max(trimmed.change_id, coalesce((select max(change_id) from cdc_change), 0))
         from trimmed",
    )
    .fetch_one(connection)
    .await?;
    Ok(Bounds { trimmed_to: trimmed_to.unsigned_abs(), newest: newest.unsigned_abs() })
}

/// Whether every row came by a change that is there: then nothing needs to be copied.
pub(crate) async fn is_complete(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if bounds(connection).await?.trimmed_to > 0 {
        return Ok(false);
    }
    let changed: Vec<String> = sqlx::query_scalar("select distinct table_name from cdc_change")
        .fetch_all(&mut *connection)
        .await?;
    for table in schema::names(connection).await?.iter().filter(|t| !changed.contains(t)) {
        let sql = format!("select exists (select 1 from {})", schema::quoted(table));
        if sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A change id as SQLite stores it. Ids beyond its integers do not occur; nothing is after them.
fn stored(change_id: u64) -> i64 {
    i64::try_from(change_id).unwrap_or(i64::MAX)
}

fn fail(at: &SourceId, doing: &'static str) -> impl Fn(sqlx::Error) -> IngestError + use<> {
    let at = at.clone();
    move |source| IngestError::Database { at: at.clone(), doing, source }
}
