use std::{collections::HashMap, fmt, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
        Schema, TimeUnit, TimestampMicrosecondType,
    },
};
use futures::future::BoxFuture;
use medlake_contract::{ColumnType, SourceId, TableName, TableSchema};
use mysql_async::{
    BinaryProtocol, Params, QueryResult, Row, Value,
    prelude::{Query as _, Queryable as _, WithParams as _},
};
use uuid::Uuid;

use super::{
    buffer::Image,
    catalog::{self, Found},
    column::{Decoder, Fault},
    config::MysqlConfig,
    connect::{self, Asking},
    error::MysqlError,
    place::Place,
    value,
};
use crate::{
    IngestError,
    log::{Chunk, FoundTables, Order, Rows},
    source::Quarantined,
};

/// Keys asked for in one select.
const KEYS: usize = 200;

/// The tables of a server, by selects.
pub(crate) struct MysqlRows {
    id: SourceId,
    config: MysqlConfig,
    asking: Option<Asking>,
    found: HashMap<TableName, Found>,
    sweep: Option<Sweep>,
}

/// A select whose rows come chunk by chunk.
struct Sweep {
    name: TableName,
    limit: usize,
    /// Where its rows are read.
    at: Option<Place>,
    /// The key of the last row that came, and the one that ends it.
    last: Option<RecordBatch>,
    to: Option<RecordBatch>,
    /// Has the connection: it ends with the select.
    result: QueryResult<'static, 'static, BinaryProtocol>,
}

/// Rows that come in.
struct Reading {
    rows: Image,
    count: usize,
    bad: Vec<Quarantined>,
}

impl Reading {
    fn new(table: &TableSchema) -> Self {
        Self { rows: Image::new(table), count: 0, bad: Vec::new() }
    }

    /// Takes up to `limit` rows.
    async fn take(
        &mut self,
        found: &Found,
        result: &mut QueryResult<'_, 'static, BinaryProtocol>,
        limit: usize,
    ) -> Result<(), mysql_async::Error> {
        let mut taken = 0;
        while taken < limit
            && let Some(row) = result.next().await?
        {
            taken += 1;
            match take(found, row, &mut self.rows) {
                Ok(()) => self.count += 1,
                Err((reason, key)) => {
                    self.rows.truncate(self.count);
                    self.bad.push(unreadable(&found.layout.schema, reason, key));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for MysqlRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlRows").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MysqlRows {
    pub(crate) fn new(id: SourceId, config: MysqlConfig) -> Self {
        Self { id, config, asking: None, found: HashMap::new(), sweep: None }
    }

    /// A connection; after an error, a new one.
    async fn connect(&mut self) -> Result<Asking, IngestError> {
        if let Some(asking) = self.asking.take() {
            return Ok(asking);
        }
        let mut asking = Asking::connect(&self.id, &self.config).await?;
        // Moments as the binlog has them, and values as they are.
        let settings = "set time_zone='+00:00', sql_mode='', names utf8mb4";
        asking.run("set up the connection", settings).await?;
        Ok(asking)
    }

    async fn find(&mut self) -> Result<FoundTables, IngestError> {
        let mut asking = self.connect().await?;
        let all = catalog::tables(&mut asking, &self.id, &self.config).await?;
        self.asking = Some(asking);
        let mut tables = FoundTables { tables: Vec::new(), refused: all.refused };
        self.found.clear();
        for found in all.tables {
            tables.tables.push(Arc::clone(&found.layout.schema));
            self.found.insert(found.layout.schema.name().clone(), found);
        }
        Ok(tables)
    }

    /// A connection on which rows are selected as they are at one moment; and that moment.
    async fn begin(&mut self, table: &TableSchema) -> Result<(Asking, Option<Place>), IngestError> {
        self.sweep = None;
        if !self.fits(table) {
            self.find().await?;
        }
        if !self.fits(table) {
            let problem = "it is not there, or has other columns now".to_owned();
            let source = MysqlError::Rows { table: table.name().table().to_owned(), problem };
            return Err(IngestError::Mysql { at: self.id.clone(), source });
        }
        let mut asking = self.connect().await?;
        let at = asking.begin_snapshot().await?;
        Ok((asking, at))
    }

    /// Selects rows, as they are at one moment.
    async fn select(
        &mut self,
        table: &TableSchema,
        queries: impl Fn(&Found) -> Vec<(String, Vec<Value>)>,
    ) -> Result<Chunk<Place>, IngestError> {
        let (mut asking, at) = self.begin(table).await?;
        let mut reading = Reading::new(table);
        if let Some(found) = self.found.get(table.name()) {
            for (sql, values) in queries(found) {
                let params =
                    if values.is_empty() { Params::Empty } else { Params::Positional(values) };
                let done = async {
                    let mut result = asking.conn.exec_iter(sql, params).await?;
                    reading.take(found, &mut result, usize::MAX).await
                };
                done.await.map_err(|error| self.failed(error))?;
            }
        }
        asking.run("end reading at one moment", "commit").await?;
        self.asking = Some(asking);
        let Reading { rows, count, bad } = reading;
        Ok(Chunk { rows: self.batch(rows, table, count)?, at, bad, goes_on: false })
    }

    /// Selects rows that come chunk by chunk, the first of them now.
    async fn begin_sweep(
        &mut self,
        table: &TableSchema,
        limit: usize,
        to: Option<&RecordBatch>,
        query: impl Fn(&Found) -> (String, Vec<Value>),
    ) -> Result<(), IngestError> {
        let (asking, at) = self.begin(table).await?;
        let (sql, values) = self.found.get(table.name()).map(query).unwrap_or_default();
        let params = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        let result = sql.with(params).run(asking.conn).await;
        let result = result.map_err(|error| self.failed(error))?;
        let (name, to) = (table.name().clone(), to.cloned());
        self.sweep = Some(Sweep { name, limit, at, last: None, to, result });
        Ok(())
    }

    /// The next rows; none when there are no more.
    async fn go_on(&mut self) -> Result<Option<Chunk<Place>>, IngestError> {
        let Some(mut sweep) = self.sweep.take() else { return Ok(None) };
        let Some(found) = self.found.get(&sweep.name) else { return Ok(None) };
        let schema = Arc::clone(&found.layout.schema);
        let mut reading = Reading::new(&schema);
        let taken = reading.take(found, &mut sweep.result, sweep.limit).await;
        taken.map_err(|error| self.failed(error))?;
        let Reading { rows, count, bad } = reading;
        if count == 0 && bad.is_empty() {
            return Ok(None);
        }
        let rows = self.batch(rows, &schema, count)?;
        let key = rows.slice(count.saturating_sub(1), count.min(1)).project(schema.key_indices());
        sweep.last = key.ok().filter(|key| key.num_rows() > 0);
        let at = sweep.at.clone();
        // After the last row nothing is held: who changes the table's columns waits for all who read it.
        let is_full = count + bad.len() >= sweep.limit;
        let goes_on = is_full && sweep.last.is_some();
        self.sweep = is_full.then_some(sweep);
        Ok(Some(Chunk { rows, at, bad, goes_on }))
    }

    /// All rows of a table without a key, the first of them now.
    async fn select_all(
        &mut self,
        table: &TableSchema,
        limit: usize,
    ) -> Result<Chunk<Place>, IngestError> {
        self.begin_sweep(table, limit, None, |found| (found.select(), Vec::new())).await?;
        let at = self.sweep.as_ref().and_then(|sweep| sweep.at.clone());
        let rows = self.next_of_all().await?;
        let rows =
            rows.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(table.arrow_nullable())));
        Ok(Chunk { rows, at, bad: Vec::new(), goes_on: false })
    }

    /// The next rows. One that cannot be read has no key to be known by, so there is no way to leave
    /// it out for now.
    async fn next_of_all(&mut self) -> Result<Option<RecordBatch>, IngestError> {
        let Some(Chunk { rows, bad, .. }) = self.go_on().await? else { return Ok(None) };
        match bad.into_iter().next() {
            None => Ok(Some(rows)),
            Some(bad) => {
                let (table, problem) = (bad.table.table().to_owned(), bad.reason);
                let source = MysqlError::Rows { table, problem };
                Err(IngestError::Mysql { at: self.id.clone(), source })
            }
        }
    }

    /// Rows in the order of the bytes of their keys, which the server has to sort: once for all of
    /// them, as one select that goes on.
    async fn select_sorted(
        &mut self,
        table: &TableSchema,
        after: Option<&RecordBatch>,
        to: Option<&RecordBatch>,
        limit: usize,
    ) -> Result<Chunk<Place>, IngestError> {
        // Whether a column may be null is said in different ways.
        let values = |key: Option<&RecordBatch>| key.map(|key| key.columns().to_vec());
        let goes_on = self.sweep.as_ref().is_some_and(|sweep| {
            sweep.name == *table.name()
                && values(sweep.last.as_ref()) == values(after)
                && values(sweep.to.as_ref()) == values(to)
        });
        if !goes_on || after.is_none() || !self.fits(table) {
            let query = |found: &Found| found.range(after, to, Order::Keys);
            self.begin_sweep(table, limit, to, query).await?;
        }
        if let Some(sweep) = &mut self.sweep {
            sweep.limit = limit;
        }
        let at = self.sweep.as_ref().and_then(|sweep| sweep.at.clone());
        Ok(self.go_on().await?.unwrap_or_else(|| Chunk {
            rows: RecordBatch::new_empty(Arc::clone(table.arrow_nullable())),
            at,
            bad: Vec::new(),
            goes_on: false,
        }))
    }

    fn failed(&self, error: mysql_async::Error) -> IngestError {
        connect::failed(&self.id, &self.config.server(), "select rows", error)
    }

    fn batch(
        &self,
        rows: Image,
        table: &TableSchema,
        count: usize,
    ) -> Result<RecordBatch, IngestError> {
        rows.finish(table, count)
            .map_err(|source| IngestError::Arrow { at: self.id.clone(), source })
    }

    /// Keys between the smallest and the largest, at even distances; only of a single whole number.
    async fn bounds(
        &mut self,
        table: &TableSchema,
        parts: usize,
    ) -> Result<Vec<RecordBatch>, IngestError> {
        let &[at] = table.key_indices() else { return Ok(Vec::new()) };
        let column = &table.columns()[at];
        if !matches!(column.ty, ColumnType::Int32 | ColumnType::Int64) || parts < 2 {
            return Ok(Vec::new());
        }
        let (mut asking, _) = self.begin(table).await?;
        let sql = self.found.get(table.name()).map(|found| found.ends(at)).unwrap_or_default();
        let ends = asking.first("ask for the ends of a table", &sql).await?;
        asking.run("end reading at one moment", "commit").await?;
        self.asking = Some(asking);
        let end = |i| ends.as_ref().and_then(|row| row.get_opt::<i64, _>(i)?.ok());
        let Some((first, last)) = end(0).zip(end(1)) else { return Ok(Vec::new()) };
        let (first, last) = (i128::from(first), i128::from(last));
        let count = i128::try_from(parts).unwrap_or(1);
        let schema = Arc::new(Schema::new(vec![table.arrow_nullable().field(at).clone()]));
        let bound = |i: i128| {
            let key = i64::try_from(first + (last - first) * i / count).unwrap_or(i64::MAX);
            let key: ArrayRef = match column.ty {
                ColumnType::Int32 => {
                    Arc::new(Int32Array::from(vec![i32::try_from(key).unwrap_or(i32::MAX)]))
                }
                _ => Arc::new(Int64Array::from(vec![key])),
            };
            RecordBatch::try_new(Arc::clone(&schema), vec![key])
        };
        let bounds: Result<Vec<RecordBatch>, _> = (1..count).map(bound).collect();
        bounds.map_err(|source| IngestError::Arrow { at: self.id.clone(), source })
    }

    fn fits(&self, table: &TableSchema) -> bool {
        self.found.get(table.name()).is_some_and(|found| *found.layout.schema == *table)
    }
}

/// A row of a select that cannot be read.
fn unreadable(table: &TableSchema, reason: String, key: Option<String>) -> Quarantined {
    Quarantined {
        table: table.name().clone(),
        id: format!("select/{}", key.as_deref().unwrap_or("?")),
        at: "select".to_owned(),
        op: "r".to_owned(),
        key,
        reason,
        raw: Vec::new(),
        committed_at_micros: None,
    }
}

/// Appends a row; or what is wrong with it, and its key.
fn take(found: &Found, row: Row, rows: &mut Image) -> Result<(), (String, Option<String>)> {
    let layout = &found.layout;
    let mut fault = None;
    let number = rows.len();
    let columns = layout.decoders.iter().zip(layout.schema.columns());
    for (((decoder, column), buffer), value) in columns.zip(&mut rows.columns).zip(row.unwrap()) {
        if let Err(Fault::Value(reason)) = value::append(decoder, &value, buffer) {
            buffer.push_null();
            fault.get_or_insert(format!("column \"{}\" {reason}", column.name));
        }
    }
    match fault {
        None => Ok(()),
        Some(reason) => {
            let key = |at: &usize| rows.columns.get(*at)?.json(number);
            let key: Option<Vec<_>> = layout.schema.key_indices().iter().map(key).collect();
            let key = key.filter(|key| !key.is_empty());
            Err((reason, key.map(|key| serde_json::Value::from(key).to_string())))
        }
    }
}

impl Rows for MysqlRows {
    type Place = Place;

    fn tables<'a>(&'a mut self, _at: &'a Place) -> BoxFuture<'a, Result<FoundTables, IngestError>> {
        Box::pin(self.find())
    }

    fn chunk<'a>(
        &'a mut self,
        table: &'a TableSchema,
        after: Option<&'a RecordBatch>,
        to: Option<&'a RecordBatch>,
        limit: usize,
        order: Order,
    ) -> BoxFuture<'a, Result<Chunk<Place>, IngestError>> {
        if table.key_indices().is_empty() {
            return Box::pin(self.select_all(table, limit));
        }
        let is_sorted =
            |at: &usize| matches!(table.columns()[*at].ty, ColumnType::Utf8 | ColumnType::Uuid);
        if order == Order::Keys && table.key_indices().iter().any(is_sorted) {
            return Box::pin(self.select_sorted(table, after, to, limit));
        }
        Box::pin(self.select(table, move |found| {
            let (sql, values) = found.range(after, to, order);
            vec![(format!("{sql} limit {limit}"), values)]
        }))
    }

    fn more(&mut self) -> BoxFuture<'_, Result<Option<RecordBatch>, IngestError>> {
        Box::pin(self.next_of_all())
    }

    fn split<'a>(
        &'a mut self,
        table: &'a TableSchema,
        parts: usize,
    ) -> BoxFuture<'a, Result<Vec<RecordBatch>, IngestError>> {
        Box::pin(self.bounds(table, parts))
    }

    fn with_keys<'a>(
        &'a mut self,
        table: &'a TableSchema,
        keys: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<Chunk<Place>, IngestError>> {
        Box::pin(self.select(table, move |found| {
            let key = table.key_indices();
            let count = keys.num_rows();
            let starts = (0..count).step_by(KEYS);
            let query = |start: usize| {
                let mut parts = Vec::new();
                let mut values = Vec::new();
                for row in start..(start + KEYS).min(count) {
                    let mut part = Vec::new();
                    for (i, &at) in key.iter().enumerate() {
                        part.push(format!("{} = {}", found.column(at), found.parameter(at)));
                        values.push(parameter(keys, i, row));
                        if found.is_text(at) {
                            // Equal to the letter, and not only in the eyes of its collation.
                            part.push(format!("{} = {}", found.ordered(at), found.parameter(at)));
                            values.push(parameter(keys, i, row));
                        }
                    }
                    parts.push(format!("({})", part.join(" and ")));
                }
                (format!("{} where {}", found.select(), parts.join(" or ")), values)
            };
            starts.map(query).collect()
        }))
    }
}

impl Found {
    /// Selects the rows between two keys, in an order.
    fn range(
        &self,
        after: Option<&RecordBatch>,
        to: Option<&RecordBatch>,
        order: Order,
    ) -> (String, Vec<Value>) {
        let mut values = Vec::new();
        let bounds = [(after, ">", ">"), (to, "<", "<=")];
        let bounds: Vec<String> = bounds
            .into_iter()
            .filter_map(|(key, sign, last)| Some(self.beyond(key?, sign, last, order, &mut values)))
            .collect();
        let mut sql = self.select();
        if !bounds.is_empty() {
            sql.push_str(&format!(" where {}", bounds.join(" and ")));
        }
        let keys = self.layout.schema.key_indices().iter();
        let keys: Vec<String> = keys.map(|&at| self.in_order(at, order)).collect();
        sql.push_str(&format!(" order by {}", keys.join(", ")));
        (sql, values)
    }

    /// A column in an order; in any, the index has it.
    fn in_order(&self, at: usize, order: Order) -> String {
        // Words of an enum are compared as texts, but ordered by their numbers.
        let has_one_order = matches!(
            self.layout.decoders.get(at),
            Some(Decoder::Text { .. } | Decoder::Uuid { .. } | Decoder::Address { .. })
        );
        if order == Order::Any && has_one_order { self.column(at) } else { self.ordered(at) }
    }

    /// The condition that a row's key is beyond `key`: `last` is what compares the last column.
    fn beyond(
        &self,
        key: &RecordBatch,
        sign: &str,
        last: &str,
        order: Order,
        values: &mut Vec<Value>,
    ) -> String {
        let columns = self.layout.schema.key_indices();
        // (a > ?) or (a = ? and b > ?) and so on.
        let mut parts = Vec::new();
        for end in 0..columns.len() {
            let mut part = Vec::new();
            for (i, &at) in columns.iter().enumerate().take(end + 1) {
                let sign = match i == end {
                    false => "=",
                    true if end + 1 == columns.len() => last,
                    true => sign,
                };
                part.push(format!("{} {sign} {}", self.in_order(at, order), self.parameter(at)));
                values.push(parameter(key, i, 0));
            }
            parts.push(part.join(" and "));
        }
        format!("(({}))", parts.join(") or ("))
    }
}

/// A key's value as the server takes it.
fn parameter(keys: &RecordBatch, column: usize, row: usize) -> Value {
    let array = keys.column(column);
    if array.is_null(row) {
        return Value::NULL;
    }
    match array.data_type() {
        DataType::Boolean => Value::Int(i64::from(array.as_boolean().value(row))),
        DataType::Int32 => Value::Int(i64::from(array.as_primitive::<Int32Type>().value(row))),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => Value::Float(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::Double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            Value::from(array.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        DataType::Date32 => {
            let days = i64::from(array.as_primitive::<Date32Type>().value(row));
            Value::from(value::moment_text(days * 86_400_000_000)[..10].to_owned())
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => Value::from(value::moment_text(
            array.as_primitive::<TimestampMicrosecondType>().value(row),
        )),
        DataType::Binary => Value::from(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(_) => {
            let uuid = Uuid::from_slice(array.as_fixed_size_binary().value(row));
            uuid.map_or(Value::NULL, |uuid| Value::from(uuid.to_string()))
        }
        _ => array.as_string_opt::<i32>().map_or(Value::NULL, |text| Value::from(text.value(row))),
    }
}
