use std::{collections::BTreeSet, mem, sync::Arc};

use medlake_contract::{
    ChangeBatch, ColumnType, Op, SourceId, TableName, TableSchema, with_causes,
};
use serde_json::Value;

use super::{
    columns::{Columns, RowError},
    schema::CapturedTable,
};
use crate::{IngestError, source::Quarantined};

/// A batch is closed at this many rows or bytes of images, which keeps its text columns far from
/// the 2 GiB that Arrow's 32-bit offsets allow.
const BATCH_ROWS: usize = 65_536;
const BATCH_BYTES: usize = 256 << 20;

/// A row of the change table.
pub(crate) struct RawChange<'r> {
    pub(crate) change_id: i64,
    pub(crate) tx_id: i64,
    pub(crate) op: &'r str,
    pub(crate) table: &'r str,
    pub(crate) before: Option<&'r [u8]>,
    pub(crate) after: Option<&'r [u8]>,
}

impl RawChange<'_> {
    pub(super) fn byte_count(&self) -> usize {
        self.before.map_or(0, <[u8]>::len) + self.after.map_or(0, <[u8]>::len)
    }
}

/// Sorts changes by table and decodes them into batches; each table's changes stay in order.
pub(super) struct Decoder {
    at: SourceId,
    tables: Arc<Vec<CapturedTable>>,
    open: Vec<Option<Open>>,
    /// The table of the last change: the next one is often of the same.
    last: usize,
    done: Vec<ChangeBatch>,
}

/// The batch of one table that is being filled.
struct Open {
    ops: Vec<Op>,
    before: Columns,
    after: Columns,
    byte_count: usize,
}

impl Decoder {
    pub(super) fn new(at: SourceId, tables: Arc<Vec<CapturedTable>>) -> Self {
        let open = tables.iter().map(|_| None).collect();
        Self { at, tables, open, last: 0, done: Vec::new() }
    }

    /// Adds a change. After an error the decoder must be thrown away.
    pub(super) fn push(&mut self, change: &RawChange<'_>) -> Result<(), IngestError> {
        let index = self.index_of(change)?;
        let op = match (change.op, change.before, change.after) {
            ("c", None, Some(_)) => Op::Insert,
            ("u", Some(_), Some(_)) => Op::Update,
            ("d", Some(_), None) => Op::Delete,
            ("c" | "u" | "d", _, _) => {
                return Err(self.broken(change, "has not the images its operation must have"));
            }
            (other, _, _) => {
                return Err(self.broken(change, &format!("has the unknown operation \"{other}\"")));
            }
        };
        self.append(index, change.change_id, op, change.before, change.after)
    }

    /// Whether nothing of its table is wanted.
    pub(super) fn is_left_out(
        &self,
        change: &RawChange<'_>,
        left_out: &BTreeSet<TableName>,
    ) -> bool {
        !left_out.is_empty()
            && self
                .tables
                .iter()
                .any(|t| t.name == change.table && left_out.contains(t.schema.name()))
    }

    /// Looks at a change by itself: gives it back should it be one that cannot be added.
    pub(super) fn check(&mut self, change: &RawChange<'_>) -> Option<Quarantined> {
        let mut alone = Self::new(self.at.clone(), Arc::clone(&self.tables));
        let error = alone.push(change).err()?;
        let schema = self.tables.iter().find(|t| t.name == change.table).map(|t| &t.schema);
        let image = change.after.or(change.before).unwrap_or_default();
        let name = format!("{}.{}", self.at, change.table).parse().ok()?;
        Some(Quarantined {
            table: schema.map_or(name, |schema| schema.name().clone()),
            id: change.change_id.to_string(),
            at: format!("change:{}", change.change_id),
            op: change.op.to_owned(),
            key: schema.and_then(|schema| key_in(schema, image)),
            reason: with_causes(&error),
            raw: [change.before.unwrap_or_default(), change.after.unwrap_or_default()].join(&b'\n'),
            committed_at_micros: None,
        })
    }

    /// All batches; those of one table are in order.
    pub(super) fn finish(mut self) -> Result<Vec<ChangeBatch>, IngestError> {
        for index in 0..self.open.len() {
            self.close(index)?;
        }
        Ok(self.done)
    }

    fn index_of(&mut self, change: &RawChange<'_>) -> Result<usize, IngestError> {
        if self.tables.get(self.last).is_none_or(|t| t.name != change.table) {
            self.last = self
                .tables
                .iter()
                .position(|t| t.name == change.table)
                .ok_or_else(|| self.broken(change, "is of a table that is not there"))?;
        }
        Ok(self.last)
    }

    fn append(
        &mut self,
        index: usize,
        change_id: i64,
        op: Op,
        before: Option<&[u8]>,
        after: Option<&[u8]>,
    ) -> Result<(), IngestError> {
        let schema = &self.tables[index].schema;
        let open = self.open[index].get_or_insert_with(|| Open {
            ops: Vec::new(),
            before: Columns::new(schema),
            after: Columns::new(schema),
            byte_count: 0,
        });
        for (name, columns, image) in
            [("before", &mut open.before, before), ("after", &mut open.after, after)]
        {
            match image {
                None => columns.push_null(),
                Some(json) => {
                    open.byte_count += json.len();
                    columns.push_row(json).map_err(|e| {
                        undecoded(&self.at, &self.tables[index], change_id, name, e)
                    })?;
                }
            }
        }
        open.ops.push(op);
        if open.ops.len() >= BATCH_ROWS || open.byte_count >= BATCH_BYTES {
            self.close(index)?;
        }
        Ok(())
    }

    fn close(&mut self, index: usize) -> Result<(), IngestError> {
        let Some(open) = mem::take(&mut self.open[index]) else { return Ok(()) };
        let arrow = |source| IngestError::Arrow { at: self.at.clone(), source };
        let table = Arc::clone(&self.tables[index].schema);
        let before = open.before.finish(&table).map_err(arrow)?;
        let after = open.after.finish(&table).map_err(arrow)?;
        let batch = ChangeBatch::new(table, open.ops, before, after)
            .map_err(|source| IngestError::Batch { at: self.at.clone(), source })?;
        self.done.push(batch);
        Ok(())
    }

    fn broken(&self, change: &RawChange<'_>, problem: &str) -> IngestError {
        IngestError::Change {
            at: self.at.clone(),
            table: change.table.to_owned(),
            change_id: change.change_id,
            problem: problem.to_owned(),
        }
    }
}

fn undecoded(
    at: &SourceId,
    table: &CapturedTable,
    change_id: i64,
    image: &'static str,
    error: RowError,
) -> IngestError {
    let columns = table.schema.columns();
    let (at, name) = (at.clone(), table.name.clone());
    let column = columns.get(error.column).map_or("(end of row)", |c| c.name.as_str()).to_owned();
    IngestError::Decode { at, table: name, change_id, image, column, source: error.source }
}

/// A row of a table that cannot be decoded.
pub(super) fn bad_row(table: &TableSchema, image: &[u8], error: &RowError) -> Quarantined {
    let key = key_in(table, image);
    let column = table.columns().get(error.column).map_or("(end of row)", |c| c.name.as_str());
    Quarantined {
        table: table.name().clone(),
        id: format!("row:{}", key.as_deref().unwrap_or_default()),
        at: "copied".to_owned(),
        op: "r".to_owned(),
        key,
        reason: format!("could not decode column \"{column}\": {}", error.source),
        raw: image.to_vec(),
        committed_at_micros: None,
    }
}

/// The key in an image, as [`key_text`](crate::snapshot::keys::key_text) writes it, where it can be read.
fn key_in(table: &TableSchema, image: &[u8]) -> Option<String> {
    let row: Vec<Value> = serde_json::from_slice(image).ok()?;
    let mut key = Vec::new();
    for &column in table.key_indices() {
        key.push(match (&table.columns()[column].ty, row.get(column)?) {
            (ColumnType::Utf8, Value::String(text)) => Value::String(text.clone()),
            (ColumnType::Int64 | ColumnType::TimestampMicros, Value::Number(number)) => {
                Value::String(number.as_i64()?.to_string())
            }
            _ => return None,
        });
    }
    Some(Value::Array(key).to_string())
}
