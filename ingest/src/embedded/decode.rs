use std::{mem, sync::Arc};

use medlake_contract::{ChangeBatch, Op, SourceId};

use super::{
    columns::{Columns, RowError},
    schema::CapturedTable,
};
use crate::IngestError;

/// A batch is closed at this many rows or bytes of images, which keeps its text columns far from
/// the 2 GiB that Arrow's 32-bit offsets allow.
const BATCH_ROWS: usize = 65_536;
const BATCH_BYTES: usize = 256 << 20;

/// A row of the change table.
pub(super) struct RawChange<'r> {
    pub(super) change_id: i64,
    pub(super) tx_id: i64,
    pub(super) op: &'r str,
    pub(super) table: &'r str,
    pub(super) before: Option<&'r [u8]>,
    pub(super) after: Option<&'r [u8]>,
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
    row_count: usize,
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
        Self { at, tables, open, last: 0, done: Vec::new(), row_count: 0 }
    }

    pub(super) fn row_count(&self) -> usize {
        self.row_count
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

    /// Adds a row of the table at `index` as it is now, as an insert.
    pub(super) fn push_existing(&mut self, index: usize, image: &[u8]) -> Result<(), IngestError> {
        self.append(index, 0, Op::Insert, None, Some(image))
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
            self.last =
                self.tables.iter().position(|t| t.name == change.table).ok_or_else(|| {
                    self.moved(change.change_id, change.table, "there was no such table".into())
                })?;
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
        self.row_count += 1;
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

    fn moved(&self, change_id: i64, table: &str, problem: String) -> IngestError {
        IngestError::SchemaMoved {
            at: self.at.clone(),
            change_id,
            table: table.to_owned(),
            problem,
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
    if error.column == columns.len() && error.source.is_data() {
        let problem = format!("it has more than {} columns", columns.len());
        return IngestError::SchemaMoved { at, change_id, table: name, problem };
    }
    let column = columns.get(error.column).map_or("(end of row)", |c| c.name.as_str()).to_owned();
    IngestError::Decode { at, table: name, change_id, image, column, source: error.source }
}
