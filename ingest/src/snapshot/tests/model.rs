//! A database that remembers all that ever happened to it, as a log and as rows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Schema},
};
use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{
    ChangeBatch, Column, ColumnType, Identity, Op, Position, SchemaChange, SourceId, TableName,
    TableSchema,
};
use tokio::sync::Notify;

use crate::{
    CutLimits, IngestError, Phase, TableState,
    log::{Chunk, FoundTables, Log, Order, Rows},
    source::{Acknowledge, Gauges, Page},
};

pub(super) type Row = Vec<Option<String>>;

#[derive(Debug, Clone)]
pub(super) enum Event {
    Change(TableName, Op, Row, Row),
    /// The table is like this from here on.
    Columns(Arc<TableSchema>),
}

/// Rows of one table, in the order of their keys, or in any order.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) schema: Arc<TableSchema>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tables: BTreeMap<TableName, Table>,
    /// Transactions; the place after the first is 1.
    pub(super) log: Vec<Vec<Event>>,
    /// The log does not go back further than this.
    pub(super) purged: usize,
    /// Whoever changes columns writes rows, too, of which the log does not tell.
    pub(super) rewrites: bool,
    /// So often rows are read before failures begin.
    pub(super) passes: u32,
    /// Selects fail as long as this is not 0.
    pub(super) failures: u32,
    /// How often others may do something before it is known where the log ends.
    pub(super) end_yields: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    state: Arc<Mutex<State>>,
    moved: Arc<Notify>,
}

pub(super) fn columns(table: &TableSchema) -> Vec<(String, DataType)> {
    table.columns().iter().map(|c| (c.name.clone(), c.ty.arrow())).collect()
}

pub(super) fn table(name: &str, key: &[&str], extra: usize) -> Arc<TableSchema> {
    let text = name.ends_with("named");
    let id = if text { ColumnType::Utf8 } else { ColumnType::Int64 };
    let mut columns = vec![
        if key.is_empty() { Column::nullable("id", id) } else { Column::required("id", id) },
        Column::nullable("v", ColumnType::Int64),
        Column::nullable("note", ColumnType::Utf8),
    ];
    columns.extend((0..extra).map(|i| Column::nullable(format!("x{i}"), ColumnType::Utf8)));
    let name = name.parse().unwrap();
    Arc::new(match key {
        [] => TableSchema::keyless(name, columns, Identity::FullRow).unwrap(),
        key => TableSchema::new(name, columns, key).unwrap(),
    })
}

/// Rows given as texts, in these columns.
pub(super) fn batch(columns: &[(String, DataType)], rows: &[Row]) -> RecordBatch {
    let fields: Vec<_> =
        columns.iter().map(|(n, t)| arrow::datatypes::Field::new(n, t.clone(), true)).collect();
    let arrays = columns.iter().enumerate().map(|(c, (_, ty))| -> ArrayRef {
        let values = rows.iter().map(|r| r[c].as_deref());
        match ty {
            DataType::Int64 => Arc::new(
                values.map(|v| v.map(|v| v.parse::<i64>().unwrap())).collect::<Int64Array>(),
            ),
            _ => Arc::new(values.collect::<StringArray>()),
        }
    });
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.collect()).unwrap()
}

/// How keys are ordered.
pub(super) fn order(table: &TableSchema, row: &Row) -> (i64, String) {
    let key = row[0].clone().unwrap_or_default();
    match table.columns()[0].ty {
        ColumnType::Int64 => (key.parse().unwrap_or(i64::MIN), String::new()),
        _ => (0, key),
    }
}

fn key_of(table: &TableSchema, key: &RecordBatch, row: usize) -> (i64, String) {
    let text = arrow::util::display::array_value_to_string(key.column(0), row).unwrap();
    order(table, &vec![Some(text)])
}

fn unread(source: sqlx::Error) -> IngestError {
    IngestError::Database { at: SourceId::new("m"), doing: "read the rows", source }
}

impl Model {
    fn try_to_read(&self) -> Result<(), IngestError> {
        let mut state = self.state();
        if state.passes > 0 {
            state.passes -= 1;
        } else if state.failures > 0 {
            state.failures -= 1;
            return Err(unread(sqlx::Error::PoolTimedOut));
        }
        Ok(())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn create(&self, schema: Arc<TableSchema>, rows: Vec<Row>) {
        self.state().tables.insert(schema.name().clone(), Table { schema, rows });
    }

    pub(super) fn commit(&self, events: Vec<Event>) {
        let mut state = self.state();
        for event in &events {
            match event {
                Event::Columns(schema) => {
                    let width = schema.columns().len();
                    let table = state
                        .tables
                        .entry(schema.name().clone())
                        .or_insert_with(|| Table { schema: Arc::clone(schema), rows: Vec::new() });
                    table.schema = Arc::clone(schema);
                    for row in &mut table.rows {
                        row.resize(width, None);
                    }
                }
                Event::Change(name, op, before, after) => {
                    let table = state.tables.get_mut(name).unwrap();
                    match op {
                        Op::Truncate => table.rows.clear(),
                        Op::Delete | Op::Update => {
                            let at = table.rows.iter().position(|r| r == before).unwrap();
                            table.rows.swap_remove(at);
                        }
                        Op::Insert => {}
                    }
                    if matches!(op, Op::Insert | Op::Update) {
                        table.rows.push(after.clone());
                    }
                }
            }
        }
        state.log.push(events);
        drop(state);
        self.moved.notify_waiters();
    }

    pub(super) fn log(&self) -> ModelLog {
        ModelLog {
            id: SourceId::new("m"),
            model: self.clone(),
            at: Place(0),
            inside: 0,
            stop: None,
            tables: BTreeMap::new(),
            left_out: Vec::new(),
            gauges: Gauges::new("model"),
        }
    }

    pub(super) fn rows(&self, exact: bool, yields: usize) -> ModelRows {
        ModelRows {
            model: self.clone(),
            exact,
            yields,
            rest: Vec::new(),
            rest_of: None,
            limit: 0,
            sweep: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) usize);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "t{}", self.0)
    }
}

#[derive(Debug)]
pub(super) struct ModelLog {
    id: SourceId,
    model: Model,
    at: Place,
    /// Events of the transaction after `at` that are handed out already.
    inside: usize,
    stop: Option<Place>,
    tables: BTreeMap<TableName, Arc<TableSchema>>,
    left_out: Vec<TableName>,
    gauges: Arc<Gauges>,
}

impl ModelLog {
    fn changes(&self, events: &[Event], page: &mut Page) {
        for event in events {
            let Event::Change(name, op, before, after) = event else { continue };
            page.row_count += 1;
            if self.left_out.contains(name) {
                continue;
            }
            let Some(table) = self.tables.get(name) else { continue };
            let width = table.columns().len();
            let image = |row: &Row| {
                let mut row = row.clone();
                row.resize(width, None);
                let batch = batch(&columns(table), &[row]);
                RecordBatch::try_new(Arc::clone(table.arrow_nullable()), batch.columns().to_vec())
                    .unwrap()
            };
            let change =
                ChangeBatch::new(Arc::clone(table), vec![*op], image(before), image(after));
            page.batches.push(change.unwrap());
        }
    }
}

impl Log for ModelLog {
    type Place = Place;

    fn id(&self) -> &SourceId {
        &self.id
    }

    fn place(&self, text: &str) -> Result<Place, IngestError> {
        Ok(Place(text[1..].parse().unwrap()))
    }

    fn end(&self) -> BoxFuture<'static, Result<Place, IngestError>> {
        let model = self.model.clone();
        async move {
            let yields = model.state().end_yields;
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            Ok(Place(model.state().log.len()))
        }
        .boxed()
    }

    fn start<'a>(
        &'a mut self,
        at: &'a Place,
        tables: &'a [Arc<TableSchema>],
    ) -> BoxFuture<'a, Result<(), IngestError>> {
        async move {
            if at.0 < self.model.state().purged {
                let at = Position::Log { step: 0, at: at.to_string() };
                return Err(IngestError::Trimmed {
                    at: self.id.clone(),
                    position: at.clone(),
                    trimmed_to: at,
                });
            }
            self.at = *at;
            self.inside = 0;
            self.tables = tables.iter().map(|t| (t.name().clone(), Arc::clone(t))).collect();
            Ok(())
        }
        .boxed()
    }

    fn at(&self) -> &Place {
        &self.at
    }

    fn reached(&self, place: &Place) -> bool {
        self.at >= *place
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.values().cloned().collect()
    }

    /// Never waits. A transaction of more than eight events is a page of its own for each eight.
    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>> {
        async move {
            let model = self.model.clone();
            let state = model.state();
            let mut page = Page::default();
            while self.at.0 < state.log.len() && page.row_count < limits.max_rows {
                let first = page.row_count == 0 && page.schemas.is_empty();
                if !first && self.stop == Some(self.at) {
                    break;
                }
                let events = &state.log[self.at.0];
                if let [Event::Columns(schema)] = events.as_slice() {
                    if page.row_count > 0 || page.transaction_count > 0 {
                        break;
                    }
                    self.tables.insert(schema.name().clone(), Arc::clone(schema));
                    page.schemas
                        .push(SchemaChange { table: Arc::clone(schema), renamed: Vec::new() });
                    if state.rewrites {
                        let name = schema.name().clone();
                        page.states.push(TableState::new(name, Phase::Snapshotting, 0));
                    }
                } else if events.len() > 8 {
                    if !first {
                        break;
                    }
                    let end = (self.inside + 8).min(events.len());
                    self.changes(&events[self.inside..end], &mut page);
                    self.inside = end % events.len();
                    page.open = self.inside > 0;
                    if page.open {
                        return Ok(Some(page));
                    }
                } else {
                    self.changes(events, &mut page);
                }
                page.transaction_count += 1;
                self.at.0 += 1;
            }
            Ok((page.transaction_count > 0).then_some(page))
        }
        .boxed()
    }

    fn stop_at(&mut self, place: Option<&Place>) -> bool {
        self.stop = place.copied();
        true
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        async {
            let moved = self.model.moved.notified();
            if self.at.0 < self.model.state().log.len() {
                return;
            }
            moved.await;
        }
        .boxed()
    }

    fn leave_out(&mut self, table: &TableName, leave_out: bool) {
        self.left_out.retain(|t| t != table);
        if leave_out {
            self.left_out.push(table.clone());
        }
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        Arc::new(Forgets)
    }

    fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }
}

#[derive(Debug)]
struct Forgets;

impl Acknowledge for Forgets {
    fn acknowledge<'a>(&'a self, _: &'a Position) -> BoxFuture<'a, Result<u64, IngestError>> {
        std::future::ready(Ok(0)).boxed()
    }
}

#[derive(Debug)]
pub(super) struct ModelRows {
    model: Model,
    /// Whether it says where rows were read.
    exact: bool,
    /// How often others may do something before and after a select.
    yields: usize,
    rest: Vec<Row>,
    rest_of: Option<TableSchema>,
    limit: usize,
    /// What follows a key, as of a moment.
    sweep: Option<Sweep>,
}

#[derive(Debug)]
struct Sweep {
    table: TableName,
    last: (i64, String),
    rest: Vec<Row>,
    at: Place,
}

impl ModelRows {
    async fn pass(&self) {
        for _ in 0..self.yields {
            tokio::task::yield_now().await;
        }
    }

    async fn select(
        &self,
        table: &TableSchema,
        wanted: impl Fn(&Row) -> bool,
    ) -> Result<(Vec<Row>, Place), IngestError> {
        self.pass().await;
        self.model.try_to_read()?;
        let answer = {
            let state = self.model.state();
            let held = &state.tables[table.name()];
            let place = |c: &Column| held.schema.columns().iter().position(|h| h.name == c.name);
            let places: Option<Vec<usize>> = table.columns().iter().map(place).collect();
            let Some(places) = places else {
                return Err(unread(sqlx::Error::ColumnNotFound("of a table".to_owned())));
            };
            let rows = held.rows.iter().filter(|row| wanted(row));
            let mut rows: Vec<Row> =
                rows.map(|row| places.iter().map(|p| row[*p].clone()).collect()).collect();
            rows.sort_by_key(|row| order(table, row));
            (rows, Place(state.log.len()))
        };
        self.pass().await;
        Ok(answer)
    }

    fn chunk_of(&self, table: &TableSchema, rows: &[Row], at: Place) -> Chunk<Place> {
        let rows = batch(&columns(table), rows);
        let rows =
            RecordBatch::try_new(Arc::clone(table.arrow_nullable()), rows.columns().to_vec());
        let at = self.exact.then_some(at);
        Chunk { rows: rows.unwrap(), at, bad: Vec::new(), goes_on: false }
    }
}

impl Rows for ModelRows {
    type Place = Place;

    fn tables<'a>(&'a mut self, _at: &'a Place) -> BoxFuture<'a, Result<FoundTables, IngestError>> {
        let tables = self.model.state().tables.values().map(|t| Arc::clone(&t.schema)).collect();
        std::future::ready(Ok(FoundTables { tables, refused: Vec::new() })).boxed()
    }

    fn chunk<'a>(
        &'a mut self,
        table: &'a TableSchema,
        after: Option<&'a RecordBatch>,
        to: Option<&'a RecordBatch>,
        limit: usize,
        asked: Order,
    ) -> BoxFuture<'a, Result<Chunk<Place>, IngestError>> {
        // Texts are in an order of their own, and it takes long to put them into another one.
        let is_text = table.columns()[0].ty == ColumnType::Utf8;
        let backwards = is_text && asked == Order::Any;
        async move {
            let after = after.map(|key| key_of(table, key, 0));
            let to = to.map(|key| key_of(table, key, 0));
            let wanted = |row: &Row| {
                let key = order(table, row);
                after.as_ref().is_none_or(|after| (key > *after) != backwards && key != *after)
                    && to.as_ref().is_none_or(|to| key <= *to)
            };
            let sweep = self.sweep.take();
            let sweep = sweep.filter(|sweep| {
                let goes_on = Some(&sweep.last) == after.as_ref();
                !backwards && sweep.table == *table.name() && goes_on
            });
            let (mut rows, at) = match sweep {
                Some(sweep) => {
                    self.pass().await;
                    (sweep.rest, sweep.at)
                }
                None => self.select(table, wanted).await?,
            };
            if backwards {
                rows.reverse();
            }
            self.rest = rows.split_off(rows.len().min(limit));
            if let Some(last) = rows.last()
                && is_text
                && asked == Order::Keys
                && rows.len() == limit
            {
                let rest = std::mem::take(&mut self.rest);
                let last = order(table, last);
                self.sweep = Some(Sweep { table: table.name().clone(), last, rest, at });
                let chunk = self.chunk_of(table, &rows, at);
                return Ok(Chunk { goes_on: true, ..chunk });
            }
            self.rest_of = Some(table.clone());
            self.limit = limit;
            Ok(self.chunk_of(table, &rows, at))
        }
        .boxed()
    }

    fn more(&mut self) -> BoxFuture<'_, Result<Option<RecordBatch>, IngestError>> {
        async move {
            self.pass().await;
            self.model.try_to_read()?;
            if self.rest.is_empty() {
                return Ok(None);
            }
            let rest = self.rest.split_off(self.rest.len().min(self.limit));
            let rows = std::mem::replace(&mut self.rest, rest);
            let schema = self.rest_of.clone().unwrap();
            Ok(Some(self.chunk_of(&schema, &rows, Place(0)).rows))
        }
        .boxed()
    }

    fn split<'a>(
        &'a mut self,
        table: &'a TableSchema,
        parts: usize,
    ) -> BoxFuture<'a, Result<Vec<RecordBatch>, IngestError>> {
        async move {
            let (rows, _) = self.select(table, |_| true).await?;
            self.sweep = None;
            if table.columns()[0].ty == ColumnType::Utf8 {
                return Ok(Vec::new());
            }
            let step = (rows.len() / parts).max(1);
            let bounds = rows.iter().step_by(step).skip(1).take(parts - 1);
            let key = |row: &Row| batch(&columns(table)[..1], &[vec![row[0].clone()]]);
            Ok(bounds.map(key).collect())
        }
        .boxed()
    }

    fn with_keys<'a>(
        &'a mut self,
        table: &'a TableSchema,
        keys: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<Chunk<Place>, IngestError>> {
        async move {
            let keys: Vec<_> = (0..keys.num_rows()).map(|row| key_of(table, keys, row)).collect();
            self.sweep = None;
            let (rows, at) = self.select(table, |row| keys.contains(&order(table, row))).await?;
            Ok(self.chunk_of(table, &rows, at))
        }
        .boxed()
    }
}
