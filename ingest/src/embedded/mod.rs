mod columns;
mod decode;
mod frames;
mod schema;
mod trim;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use futures::{
    TryStreamExt,
    future::{BoxFuture, FutureExt},
};
use medlake_contract::{Position, SourceId, TableName, TableSchema};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions,
};

use crate::{
    AnySource, CutLimits, IngestError, Wake,
    source::{Acknowledge, Gauges, Page, Resume, Source},
};
use decode::Decoder;
use schema::CapturedTable;
use trim::Trimmer;

/// How long a statement waits for another connection's write before it is `Unavailable`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows in flight between SQLite's thread and the decoder.
const ROW_BUFFER: usize = 1024;

/// An embedded SQLite database whose triggers record each row change.
///
/// The database has three tables besides its own:
/// - `cdc_transaction(tx_id, committed_at)`: a row for each writing transaction, `committed_at` in
///   microseconds since 1970 (UTC).
/// - `cdc_change(change_id, tx_id, table_name, op, before, after)`: a row for each changed row, in
///   order; `op` is `c`, `u` or `d`. An image is a JSON array of the row's columns in table order;
///   bytes are hexadecimal text, reals are text of 17 significant digits, a row from before a
///   column was added is shorter.
/// - `cdc_trimmed(only_row, trimmed_to)`: the newest change ever deleted from `cdc_change`.
///
/// SQLite has one writer at a time, so the order of `change_id` is the order of commits, and what
/// one statement sees ends with a whole transaction. A position is the last `change_id` of one.
///
/// Tables whose names start with `cdc_`, `sqlx_`, `sqlite_`, `_`, `outbox` or `idempotency` are the
/// service's own business and are not captured.
#[derive(Debug)]
pub struct EmbeddedSource {
    id: SourceId,
    connection: SqliteConnection,
    trimmer: Trimmer,
    tables: Arc<Vec<CapturedTable>>,
    wake: Wake,
    gauges: Arc<Gauges>,
    /// The last change that was handed out; none before first contact.
    position: Option<u64>,
    /// `pragma data_version` when the change table was last read to its end.
    read_version: Option<i64>,
}

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
        let id = SourceId::new(id);
        let fail = |doing| {
            let at = id.clone();
            move |source| IngestError::Database { at, doing, source }
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROW_BUFFER)
            // A cut is one long statement by design; sqlx would warn about each.
            .disable_statement_logging();
        let trimmer = Trimmer::open(id.clone(), options.clone()).await?;
        let mut connection =
            options.read_only(true).connect().await.map_err(fail("open the database"))?;
        let tables = Arc::new(schema::tables(&id, &mut connection).await?);
        let gauges = Gauges::new("embedded");
        Ok(Self {
            id,
            connection,
            trimmer,
            tables,
            wake,
            gauges,
            position: None,
            read_version: None,
        })
    }

    /// Whether reading can go on after `position` without a hole.
    async fn check_resume(&mut self, position: &Position) -> Result<u64, IngestError> {
        let Position::ChangeId(change_id) = *position else {
            return Err(IngestError::ForeignPosition {
                at: self.id.clone(),
                position: position.clone(),
            });
        };
        let bounds = self.bounds().await?;
        let at = self.id.clone();
        if change_id < bounds.trimmed_to {
            let trimmed_to = Position::ChangeId(bounds.trimmed_to);
            return Err(IngestError::Trimmed { at, position: position.clone(), trimmed_to });
        }
        if change_id > bounds.newest {
            let newest = Position::ChangeId(bounds.newest);
            return Err(IngestError::Ahead { at, position: position.clone(), newest });
        }
        Ok(change_id)
    }

    /// Whole transactions after the cursor, until there are `max_rows` changes or `max_bytes` of
    /// images; a transaction is never cut, and there is at least one if there is any at all. At
    /// first contact, the rows as they are now if their changes are no longer all there, else the
    /// changes from the first.
    async fn read_page(&mut self, limits: CutLimits) -> Result<Option<Page>, IngestError> {
        let version = self.version().await?;
        // Nobody committed anything since the change table was read to its end.
        if self.read_version == Some(version) {
            return Ok(None);
        }
        let position = match self.position {
            Some(change_id) => change_id,
            None => match self.snapshot(version).await? {
                Some(page) => return Ok(Some(page)),
                None => 0,
            },
        };
        let fail = fail(&self.id, "read the changes");
        let mut decoder = Decoder::new(self.id.clone(), Arc::clone(&self.tables));
        let mut byte_count = 0;
        let mut last: Option<(i64, i64)> = None;
        let mut transaction_count = 0;
        let mut cut = false;
        let mut chunk_rows = frames::CHUNK_ROWS;
        // All chunks see the same commits, so the end of the last one is the end of a transaction.
        let mut read = self.connection.begin().await.map_err(&fail)?;
        'chunks: loop {
            let from = last.map_or(stored(position), |(change_id, _)| change_id);
            let chunk = sqlx::query_scalar::<_, Option<Vec<u8>>>(frames::SQL)
                .bind(from)
                .bind(chunk_rows)
                .fetch_one(&mut *read)
                .await;
            let chunk = match chunk {
                Err(error) if frames::too_big(&error) && chunk_rows > 1 => {
                    chunk_rows = (chunk_rows / 8).max(1);
                    continue;
                }
                chunk => chunk.map_err(&fail)?,
            };
            let Some(chunk) = chunk else { break };
            for change in frames::Frames::new(&chunk) {
                let change = change.map_err(|problem| IngestError::Frame {
                    at: self.id.clone(),
                    change_id: last.map_or(from, |(change_id, _)| change_id),
                    problem,
                })?;
                if last.is_none_or(|(_, tx_id)| tx_id != change.tx_id) {
                    if last.is_some()
                        && (decoder.row_count() >= limits.max_rows
                            || byte_count >= limits.max_bytes)
                    {
                        cut = true;
                        break 'chunks;
                    }
                    transaction_count += 1;
                }
                last = Some((change.change_id, change.tx_id));
                byte_count += change.byte_count();
                decoder.push(&change)?;
            }
            tokio::task::yield_now().await;
        }
        let Some((change_id, tx_id)) = last else {
            read.commit().await.map_err(&fail)?;
            self.read_version = Some(version);
            return Ok(None);
        };
        let committed_at_micros =
            sqlx::query_scalar("select committed_at from cdc_transaction where tx_id = ?")
                .bind(tx_id)
                .fetch_optional(&mut *read)
                .await
                .map_err(&fail)?;
        read.commit().await.map_err(&fail)?;
        let row_count = decoder.row_count();
        let page = Page {
            position: Some(Position::ChangeId(change_id.unsigned_abs())),
            batches: decoder.finish()?,
            row_count,
            byte_count,
            transaction_count,
            committed_at_micros,
            ..Page::default()
        };
        self.position = Some(change_id.unsigned_abs());
        self.read_version = (!cut).then_some(version);
        Ok(Some(page))
    }

    /// All rows of all tables in one read transaction, if the change table cannot give them: its
    /// beginning is trimmed, or a table had rows before its changes were captured.
    async fn snapshot(&mut self, version: i64) -> Result<Option<Page>, IngestError> {
        let fail = fail(&self.id, "copy the rows");
        let mut decoder = Decoder::new(self.id.clone(), Arc::clone(&self.tables));
        let mut byte_count = 0;
        // What the transaction has seen by its first statement is what all of them see.
        let mut read = self.connection.begin().await.map_err(&fail)?;
        let bounds = bounds(&mut read).await.map_err(&fail)?;
        if bounds.trimmed_to == 0
            && !any_uncaptured(&self.tables, &mut read).await.map_err(&fail)?
        {
            return Ok(None);
        }
        for (index, table) in self.tables.iter().enumerate() {
            let sql = format!("select {} from {}", table.image_sql(), schema::quoted(&table.name));
            let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut *read);
            while let Some(row) = rows.try_next().await.map_err(&fail)? {
                let image: &[u8] = row.try_get_unchecked(0).map_err(&fail)?;
                byte_count += image.len();
                decoder.push_existing(index, image)?;
                if decoder.row_count().is_multiple_of(ROW_BUFFER) {
                    tokio::task::yield_now().await;
                }
            }
        }
        let committed_at_micros = sqlx::query_scalar(
            "select committed_at from cdc_transaction order by tx_id desc limit 1",
        )
        .fetch_optional(&mut *read)
        .await
        .map_err(&fail)?;
        read.commit().await.map_err(&fail)?;
        let row_count = decoder.row_count();
        tracing::info!(source = %self.id, row_count, position = bounds.newest, "copied the rows");
        let page = Page {
            position: Some(Position::ChangeId(bounds.newest)),
            batches: decoder.finish()?,
            row_count,
            byte_count,
            committed_at_micros,
            ..Page::default()
        };
        self.position = Some(bounds.newest);
        self.read_version = Some(version);
        Ok(Some(page))
    }

    async fn bounds(&mut self) -> Result<Bounds, IngestError> {
        bounds(&mut self.connection).await.map_err(fail(&self.id, "read the change table"))
    }

    async fn version(&mut self) -> Result<i64, IngestError> {
        sqlx::query_scalar("pragma data_version")
            .fetch_one(&mut self.connection)
            .await
            .map_err(fail(&self.id, "read the version"))
    }
}

impl From<EmbeddedSource> for AnySource {
    fn from(source: EmbeddedSource) -> Self {
        Self(Box::new(source))
    }
}

impl Source for EmbeddedSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.iter().map(|t| Arc::clone(&t.schema)).collect()
    }

    fn resume<'a>(&'a mut self, resume: &'a Resume) -> BoxFuture<'a, Result<(), IngestError>> {
        async move {
            if let Some(position) = resume.positions.get(&self.id) {
                self.position = Some(self.check_resume(position).await?);
            }
            Ok(())
        }
        .boxed()
    }

    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>> {
        async move {
            let page = self.read_page(limits).await?;
            let caught_up = self.read_version.is_some();
            self.gauges.update(|health| health.caught_up = caught_up);
            Ok(page)
        }
        .boxed()
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        self.wake.wait().boxed()
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        Arc::new(self.trimmer.clone())
    }

    fn stop(&mut self, _table: &TableName, _reason: String, _remedy: String) {}

    fn resync(&mut self, table: &TableName) -> Result<(), IngestError> {
        Err(IngestError::Schema {
            at: self.id.clone(),
            table: table.table().to_owned(),
            problem: "it cannot be copied again".to_owned(),
        })
    }

    fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }
}

/// The ends of a change table.
struct Bounds {
    /// The newest change that was deleted; 0 when none was.
    trimmed_to: u64,
    /// The newest change there ever was; 0 when there was none.
    newest: u64,
}

async fn bounds(connection: &mut SqliteConnection) -> Result<Bounds, sqlx::Error> {
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

/// Whether any table has rows but no change of it was ever recorded.
async fn any_uncaptured(
    tables: &[CapturedTable],
    connection: &mut SqliteConnection,
) -> Result<bool, sqlx::Error> {
    let changed: Vec<String> = sqlx::query_scalar("select distinct table_name from cdc_change")
        .fetch_all(&mut *connection)
        .await?;
    for table in tables.iter().filter(|t| !changed.contains(&t.name)) {
        let sql = format!("select exists (select 1 from {})", schema::quoted(&table.name));
        if sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A change id as SQLite stores it. Ids beyond its integers do not occur; nothing is after them.
fn stored(change_id: u64) -> i64 {
    i64::try_from(change_id).unwrap_or(i64::MAX)
}

fn fail(at: &SourceId, doing: &'static str) -> impl Fn(sqlx::Error) -> IngestError + use<> {
    let at = at.clone();
    move |source| IngestError::Database { at: at.clone(), doing, source }
}
