use std::{collections::BTreeSet, fmt, sync::Arc};

use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{Position, SchemaChange, SourceId, TableName, TableSchema};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    Bounds, bounds,
    decode::Decoder,
    fail, frames, is_complete,
    schema::{self, CapturedTable, Mark},
    stored,
    trim::Trimmer,
};
use crate::{
    CutLimits, IngestError, Phase, TableState, Wake,
    log::Log,
    source::{Acknowledge, Gauges, Page},
};

/// The last change before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChangePlace(pub(super) u64);

impl fmt::Display for ChangePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The change table, read in order.
#[derive(Debug)]
pub(super) struct EmbeddedLog {
    id: SourceId,
    options: SqliteConnectOptions,
    connection: SqliteConnection,
    trimmer: Trimmer,
    tables: Arc<Vec<CapturedTable>>,
    left_out: BTreeSet<TableName>,
    wake: Wake,
    gauges: Arc<Gauges>,
    at: ChangePlace,
    /// `pragma data_version` when the change table was last read to its end.
    read_version: Option<i64>,
}

impl EmbeddedLog {
    pub(super) async fn open(
        id: SourceId,
        options: &SqliteConnectOptions,
        trimmer: Trimmer,
        wake: Wake,
    ) -> Result<Self, IngestError> {
        let connection = options.connect().await.map_err(fail(&id, "open the database"))?;
        let mut log = Self {
            id,
            options: options.clone(),
            connection,
            trimmer,
            tables: Arc::default(),
            left_out: BTreeSet::new(),
            wake,
            gauges: Gauges::new("embedded"),
            at: ChangePlace(0),
            read_version: None,
        };
        log.tables = log.tables_at(ChangePlace(u64::MAX)).await?;
        Ok(log)
    }

    /// The tables as they were at a place.
    pub(super) async fn tables_at(
        &mut self,
        place: ChangePlace,
    ) -> Result<Arc<Vec<CapturedTable>>, IngestError> {
        let fail = fail(&self.id, "read the schema");
        let mut read = self.connection.begin().await.map_err(&fail)?;
        let tables = schema::tables_at(&self.id, &mut read, stored(place.0)).await?;
        read.commit().await.map_err(&fail)?;
        Ok(Arc::new(tables))
    }

    async fn bounds(&mut self) -> Result<Bounds, IngestError> {
        bounds(&mut self.connection).await.map_err(fail(&self.id, "read the change table"))
    }

    /// Whole transactions after the cursor, until there are `max_rows` changes or `max_bytes` of
    /// images; a transaction is never cut, and there is at least one if there is any at all.
    async fn read_page(&mut self, limits: CutLimits) -> Result<Option<Page>, IngestError> {
        let version = number(&mut self.connection, DATA).await;
        let version = version.map_err(fail(&self.id, "read the version"))?;
        // Nobody committed anything since the change table was read to its end.
        if self.read_version == Some(version) {
            return Ok(None);
        }
        // A row that cannot be decoded spoils what it is decoded into: then each is tried by itself.
        match self.read_changes(limits, version, false).await {
            Err(error) if is_of_a_row(&error) => self.read_changes(limits, version, true).await,
            done => done,
        }
    }

    /// Takes in what became of the tables at the cursor.
    fn moved(&mut self, marks: Vec<(i64, Mark)>) -> Page {
        let mut tables = Vec::clone(&self.tables);
        let mut page = Page::default();
        for (change_id, Mark { table: name, before, after, reread }) in marks {
            tables.retain(|t| t.name != name);
            if let Some(after) = after {
                let is_new = before.is_none();
                let renamed = before.as_ref().map_or_else(Vec::new, |b| renamed(b, &after));
                if before.is_none_or(|before| before.schema != after.schema) {
                    let table = Arc::clone(&after.schema);
                    page.schemas.push(SchemaChange { table, renamed });
                }
                if reread && !is_new {
                    let reason = "a migration wrote rows, which its changes do not tell".to_owned();
                    let name = after.schema.name().clone();
                    page.states.push(TableState {
                        reason: Some(reason),
                        ..TableState::new(name, Phase::Snapshotting, 0)
                    });
                }
                tables.push(after);
            } else if let Some(before) = before {
                let reason = "it was dropped; the rows are those it had".to_owned();
                let remedy = "drop it from the lake, too, should nobody need it".to_owned();
                let name = before.schema.name().clone();
                page.states.push(TableState::stopped(name, reason, remedy));
            }
            self.at = ChangePlace(change_id.unsigned_abs());
        }
        self.tables = Arc::new(tables);
        page
    }

    async fn read_changes(
        &mut self,
        limits: CutLimits,
        version: i64,
        careful: bool,
    ) -> Result<Option<Page>, IngestError> {
        let fail = fail(&self.id, "read the changes");
        let mut decoder = Decoder::new(self.id.clone(), Arc::clone(&self.tables));
        let mut quarantined = Vec::new();
        let mut byte_count = 0;
        let mut row_count = 0;
        let mut last: Option<(i64, i64)> = None;
        let mut transaction_count = 0;
        let mut cut = false;
        let mut chunk_rows = frames::CHUNK_ROWS;
        // All chunks see the same commits, so the end of the last one is the end of a transaction.
        let mut read = self.connection.begin().await.map_err(&fail)?;
        'chunks: loop {
            let from = last.map_or(stored(self.at.0), |(change_id, _)| change_id);
            let chunk = frames::chunk(&mut read, from, &mut chunk_rows).await.map_err(&fail)?;
            let Some(chunk) = chunk else { break };
            let mut marks = Vec::new();
            for change in frames::Frames::new(&chunk) {
                let change = change.map_err(|problem| IngestError::Frame {
                    at: self.id.clone(),
                    change_id: last.map_or(from, |(change_id, _)| change_id),
                    problem,
                })?;
                // What became of tables is a page of its own: the one before ends here.
                if change.table == Mark::TABLE && last.is_none() {
                    let image = change.after.unwrap_or_default();
                    let mark = Mark::read(&self.id, change.change_id, image)?;
                    marks.push((change.change_id, mark));
                    continue;
                }
                if !marks.is_empty() {
                    break;
                }
                if change.table == Mark::TABLE {
                    cut = true;
                    break 'chunks;
                }
                if last.is_none_or(|(_, tx_id)| tx_id != change.tx_id) {
                    if last.is_some()
                        && (row_count >= limits.max_rows || byte_count >= limits.max_bytes)
                    {
                        cut = true;
                        break 'chunks;
                    }
                    transaction_count += 1;
                }
                last = Some((change.change_id, change.tx_id));
                byte_count += change.byte_count();
                row_count += 1;
                if decoder.is_left_out(&change, &self.left_out) {
                    continue;
                }
                match careful.then(|| decoder.check(&change)).flatten() {
                    Some(bad) => quarantined.push(bad),
                    None => decoder.push(&change)?,
                }
            }
            if !marks.is_empty() {
                read.commit().await.map_err(&fail)?;
                return Ok(Some(self.moved(marks)));
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
        for bad in &mut quarantined {
            bad.committed_at_micros = committed_at_micros;
        }
        let page = Page {
            batches: decoder.finish()?,
            quarantined,
            row_count,
            byte_count,
            transaction_count,
            committed_at_micros,
            ..Page::default()
        };
        self.at = ChangePlace(change_id.unsigned_abs());
        self.read_version = (!cut).then_some(version);
        Ok(Some(page))
    }
}

pub(crate) const DATA: &str = "pragma data_version";

pub(crate) async fn number(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(connection).await
}

/// Whether an error is about one change, and the others can be read.
fn is_of_a_row(error: &IngestError) -> bool {
    matches!(error, IngestError::Decode { .. } | IngestError::Change { .. })
}

/// Columns that stand where one of their type stood before, under another name.
fn renamed(before: &CapturedTable, now: &CapturedTable) -> Vec<(String, String)> {
    let (before, now) = (before.schema.columns(), now.schema.columns());
    let pairs = before.iter().zip(now).filter(|(old, new)| {
        old.name != new.name
            && old.ty == new.ty
            && !now.iter().any(|c| c.name == old.name)
            && !before.iter().any(|c| c.name == new.name)
    });
    pairs.map(|(old, new)| (old.name.clone(), new.name.clone())).collect()
}

impl Log for EmbeddedLog {
    type Place = ChangePlace;

    fn id(&self) -> &SourceId {
        &self.id
    }

    fn place(&self, text: &str) -> Result<ChangePlace, IngestError> {
        text.parse().map(ChangePlace).map_err(|_| IngestError::ForeignPosition {
            at: self.id.clone(),
            position: Position::Log { step: 0, at: text.to_owned() },
        })
    }

    fn position(&self, place: &ChangePlace, _step: u64) -> Position {
        Position::ChangeId(place.0)
    }

    fn place_of(&self, position: &Position) -> Result<ChangePlace, IngestError> {
        match position {
            Position::ChangeId(change_id) => Ok(ChangePlace(*change_id)),
            _ => Err(IngestError::ForeignPosition {
                at: self.id.clone(),
                position: position.clone(),
            }),
        }
    }

    fn whole(&mut self) -> BoxFuture<'_, Result<Option<ChangePlace>, IngestError>> {
        async move {
            let fail = fail(&self.id, "read the change table");
            let mut read = self.connection.begin().await.map_err(&fail)?;
            let complete = is_complete(&mut read).await.map_err(&fail)?;
            read.commit().await.map_err(&fail)?;
            Ok(complete.then_some(ChangePlace(0)))
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'static, Result<ChangePlace, IngestError>> {
        let (id, options) = (self.id.clone(), self.options.clone());
        async move {
            let fail = fail(&id, "read the change table");
            let mut connection = options.connect().await.map_err(&fail)?;
            let newest = bounds(&mut connection).await.map_err(&fail)?.newest;
            connection.close().await.map_err(&fail)?;
            Ok(ChangePlace(newest))
        }
        .boxed()
    }

    fn start<'a>(
        &'a mut self,
        at: &'a ChangePlace,
        _tables: &'a [Arc<TableSchema>],
    ) -> BoxFuture<'a, Result<(), IngestError>> {
        async move {
            let bounds = self.bounds().await?;
            let (id, position) = (self.id.clone(), Position::ChangeId(at.0));
            if at.0 < bounds.trimmed_to {
                let trimmed_to = Position::ChangeId(bounds.trimmed_to);
                return Err(IngestError::Trimmed { at: id, position, trimmed_to });
            }
            if at.0 > bounds.newest {
                let newest = Position::ChangeId(bounds.newest);
                return Err(IngestError::Ahead { at: id, position, newest });
            }
            self.tables = self.tables_at(*at).await?;
            self.at = *at;
            self.read_version = None;
            Ok(())
        }
        .boxed()
    }

    fn at(&self) -> &ChangePlace {
        &self.at
    }

    fn reached(&self, place: &ChangePlace) -> bool {
        self.at >= *place
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.iter().map(|t| Arc::clone(&t.schema)).collect()
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

    fn leave_out(&mut self, table: &TableName, leave_out: bool) {
        if leave_out {
            self.left_out.insert(table.clone());
        } else {
            self.left_out.remove(table);
        }
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        Arc::new(self.trimmer.clone())
    }

    fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }
}
