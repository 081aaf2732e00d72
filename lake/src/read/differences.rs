//! What has to change for rows to be what a copy of them says they are.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{BooleanArray, UInt32Array, UInt64Array, new_null_array},
    compute::{concat_batches, filter_record_batch, interleave_record_batch, take_record_batch},
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, SortField},
};
use datafusion::{
    error::DataFusionError,
    logical_expr::{Expr, ident, lit},
    prelude::{DataFrame, SessionContext},
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use hashbrown::HashMap;
use medlake_contract::{ChangeBatch, CopyScope, Identity, Op, RowCopy, TableSchema};
use roaring::RoaringBitmap;

use crate::{
    error::LakeError,
    lake::Lake,
    read::{provider::LakeTable, rows::as_declared, view::TableView},
    table::segment::SegmentData,
};

impl Lake {
    /// The changes that make the rows `copy` speaks for, as they are staged, the rows it has; none when
    /// they are that already. Of a table without a key each row counts as often as it is there.
    ///
    /// Rows of a copy of a whole range are looked for by a scan of that range, others by the key index;
    /// what is found is held in memory.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`], [`LakeError::Rows`] for other columns than the table's,
    /// [`LakeError::IndexNotLoaded`], and what goes wrong in reading.
    pub async fn differences(&self, copy: &RowCopy) -> Result<Option<ChangeBatch>, LakeError> {
        let (view, found) = self.find(copy)?;
        let held = match (&copy.scope, found) {
            (CopyScope::Range { after, to, .. }, _) => {
                range(&view, after.as_ref(), to.as_ref()).await?
            }
            (_, Some(found)) => rows(&view, found).await?,
            (_, None) => Vec::new(),
        };
        if held.iter().all(|batch| batch.num_rows() == 0) {
            return match copy.rows.num_rows() {
                0 => Ok(None),
                _ => ChangeBatch::inserts(Arc::clone(&copy.table), &copy.rows)
                    .map(Some)
                    .map_err(|e| wrong_rows(&copy.table, e.to_string())),
            };
        }
        compare(copy, &held).map_err(|source| unreadable(&copy.table, source))
    }

    /// The table as it is staged, and where the rows are in it whose keys the copy names, if it has any.
    #[expect(clippy::type_complexity, reason = "two things that belong to one moment")]
    pub(crate) fn find(
        &self,
        copy: &RowCopy,
    ) -> Result<(Arc<TableView>, Option<BTreeMap<u32, RoaringBitmap>>), LakeError> {
        let name = copy.table.name();
        let mut state = self.state();
        let unknown = || LakeError::UnknownTable { table: name.clone() };
        let table = state.tables.get_mut(name).ok_or_else(unknown)?;
        if table.schema() != &copy.table {
            let problem = "a copy of rows has other columns or another key than the table";
            return Err(wrong_rows(&copy.table, problem.to_owned()));
        }
        let view = table.view();
        let codec = Arc::clone(table.codec());
        let keys = match &copy.scope {
            CopyScope::Range { .. } => return Ok((view, None)),
            CopyScope::Part { .. } => {
                let problem = "rows that are a part of a table's are tallied";
                return Err(wrong_rows(&copy.table, problem.to_owned()));
            }
            CopyScope::Rows => codec.keys(&copy.rows),
            CopyScope::Keys(keys) => codec.keys_of_columns(keys.columns()),
        };
        let keys = keys.map_err(|source| unreadable(&copy.table, source))?;
        let count = match &copy.scope {
            CopyScope::Keys(keys) => keys.num_rows(),
            _ => copy.rows.num_rows(),
        };
        let not_loaded = || LakeError::IndexNotLoaded { table: name.clone() };
        let index = table.index().ok_or_else(not_loaded)?;
        let mut found: BTreeMap<u32, RoaringBitmap> = BTreeMap::new();
        for at in (0..count).filter_map(|row| index.find(&keys, row)) {
            if let Some(at) = table.resolve(at) {
                found.entry(at.segment).or_default().insert(at.row);
            }
        }
        Ok((view, (!found.is_empty()).then_some(found)))
    }
}

pub(crate) fn unreadable(table: &TableSchema, source: ArrowError) -> LakeError {
    LakeError::Arrow { doing: "compare rows", table: table.name().clone(), source }
}

fn wrong_rows(table: &TableSchema, problem: String) -> LakeError {
    LakeError::Rows { table: table.name().clone(), problem }
}

/// Some rows of some segments.
pub(crate) async fn rows(
    view: &TableView,
    found: BTreeMap<u32, RoaringBitmap>,
) -> Result<Vec<RecordBatch>, LakeError> {
    let mut held = Vec::new();
    for segment in &view.segments {
        let Some(rows) = found.get(&segment.id) else { continue };
        match &segment.data {
            SegmentData::File(file) => {
                let positions = rows.iter().map(|row| file.position(row)).collect();
                let batches = file.file.read_rows(&view.shape, &positions).await?;
                held.extend(batches.try_collect::<Vec<_>>().await?);
            }
            SegmentData::Hot(hot) => {
                let mut first = 0_u32;
                for batch in &hot.batches {
                    let end = first + u32::try_from(batch.num_rows()).unwrap_or(u32::MAX - first);
                    let wanted: UInt32Array = rows.range(first..end).map(|r| r - first).collect();
                    first = end;
                    if !wanted.is_empty() {
                        let taken = take_record_batch(batch, &wanted);
                        held.push(taken.map_err(|source| unreadable(&view.schema, source))?);
                    }
                }
            }
        }
    }
    Ok(held)
}

/// A scan of all rows.
pub(crate) fn all(view: &Arc<TableView>) -> Result<DataFrame, DataFusionError> {
    SessionContext::new().read_table(Arc::new(LakeTable::new(Arc::clone(view))))
}

/// All rows between two keys.
async fn range(
    view: &Arc<TableView>,
    after: Option<&RecordBatch>,
    to: Option<&RecordBatch>,
) -> Result<Vec<RecordBatch>, LakeError> {
    let scan = async {
        let mut rows = all(view)?;
        if let Some(after) = after {
            rows = rows.filter(beyond(after)?)?;
        }
        if let Some(to) = to {
            rows = rows.filter(Expr::Not(Box::new(beyond(to)?)))?;
        }
        rows.collect().await
    };
    let batches =
        scan.await.map_err(|error: DataFusionError| unreadable(&view.schema, error.into()))?;
    let batches = batches.iter().map(|b| as_declared(b, view.schema.arrow()));
    let batches = batches.collect::<Result<_, _>>();
    batches.map_err(|source| unreadable(&view.schema, source))
}

/// Whether a row's key comes after this one, column by column.
fn beyond(key: &RecordBatch) -> Result<Expr, DataFusionError> {
    let fields = key.schema();
    let mut whole: Option<Expr> = None;
    for (field, values) in fields.fields().iter().zip(key.columns()).rev() {
        let value = ScalarValue::try_from_array(values, 0)?;
        let column = || ident(field.name());
        let more = column().gt(lit(value.clone()));
        whole = Some(match whole {
            None => more,
            Some(rest) => more.or(column().eq(lit(value)).and(rest)),
        });
    }
    Ok(whole.unwrap_or_else(|| lit(true)))
}

/// Compares the rows of a copy with those that are held of what it speaks for.
fn compare(copy: &RowCopy, held: &[RecordBatch]) -> Result<Option<ChangeBatch>, ArrowError> {
    let schema = &copy.table;
    let all: Vec<usize> = (0..schema.columns().len()).collect();
    let by_key = schema.identity() == Identity::Key;
    let identity = if by_key { schema.key_indices() } else { all.as_slice() };
    let converter = |columns: &[usize]| {
        let fields = columns.iter().map(|&c| SortField::new(schema.columns()[c].ty.arrow()));
        RowConverter::new(fields.collect())
    };
    let keys = converter(identity)?;
    let encode = |converter: &RowConverter, columns: &[usize], rows: &RecordBatch| {
        let columns: Vec<_> = columns.iter().map(|&c| Arc::clone(rows.column(c))).collect();
        converter.convert_columns(&columns)
    };
    let mut places: HashMap<Box<[u8]>, Vec<(usize, usize)>> = HashMap::new();
    for (at, batch) in held.iter().enumerate() {
        for (row, key) in encode(&keys, identity, batch)?.iter().enumerate() {
            places.entry(key.as_ref().into()).or_default().push((at, row));
        }
    }
    if let CopyScope::Range { except: Some(except), .. } = &copy.scope {
        for key in &keys.convert_columns(except.columns())? {
            places.remove(key.as_ref());
        }
    }
    let (mut again, mut old, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for (row, key) in encode(&keys, identity, &copy.rows)?.iter().enumerate() {
        match places.get_mut(key.as_ref()).and_then(Vec::pop) {
            Some(place) => {
                again.push(row as u64);
                old.push(place);
            }
            None => new.push(row as u64),
        }
    }
    let held: Vec<&RecordBatch> = held.iter().collect();
    let mut images = Images::new(schema);
    if by_key && !again.is_empty() {
        let rows = converter(&all)?;
        let before = interleave_record_batch(&held, &old)?;
        let after = take_record_batch(&copy.rows, &UInt64Array::from(again))?;
        let (a, b) = (encode(&rows, &all, &before)?, encode(&rows, &all, &after)?);
        let differs: BooleanArray = a.iter().zip(b.iter()).map(|(a, b)| Some(a != b)).collect();
        if differs.true_count() > 0 {
            let before = filter_record_batch(&before, &differs)?;
            images.push(Op::Update, Some(before), Some(filter_record_batch(&after, &differs)?))?;
        }
    }
    if !new.is_empty() {
        let after = take_record_batch(&copy.rows, &UInt64Array::from(new))?;
        images.push(Op::Insert, None, Some(after))?;
    }
    // Of a copy of some rows, those that it lacks and that were looked for do not exist.
    let mut gone: Vec<(usize, usize)> = places.into_values().flatten().collect();
    if !gone.is_empty() {
        gone.sort_unstable();
        images.push(Op::Delete, Some(interleave_record_batch(&held, &gone)?), None)?;
    }
    images.finish()
}

/// The rows before and after some changes.
struct Images<'a> {
    table: &'a Arc<TableSchema>,
    ops: Vec<Op>,
    before: Vec<RecordBatch>,
    after: Vec<RecordBatch>,
}

impl<'a> Images<'a> {
    fn new(table: &'a Arc<TableSchema>) -> Self {
        Self { table, ops: Vec::new(), before: Vec::new(), after: Vec::new() }
    }

    /// Adds changes of one kind, with the images they have.
    fn push(
        &mut self,
        op: Op,
        before: Option<RecordBatch>,
        after: Option<RecordBatch>,
    ) -> Result<(), ArrowError> {
        let schema = self.table.arrow_nullable();
        let rows = before.as_ref().or(after.as_ref()).map_or(0, RecordBatch::num_rows);
        let image = |rows_of: Option<RecordBatch>| match rows_of {
            Some(batch) => RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec()),
            None => {
                let none = schema.fields().iter().map(|f| new_null_array(f.data_type(), rows));
                RecordBatch::try_new(Arc::clone(schema), none.collect())
            }
        };
        self.ops.resize(self.ops.len() + rows, op);
        self.before.push(image(before)?);
        self.after.push(image(after)?);
        Ok(())
    }

    fn finish(self) -> Result<Option<ChangeBatch>, ArrowError> {
        if self.ops.is_empty() {
            return Ok(None);
        }
        let schema = self.table.arrow_nullable();
        let before = concat_batches(schema, &self.before)?;
        let after = concat_batches(schema, &self.after)?;
        let batch = ChangeBatch::new(Arc::clone(self.table), self.ops, before, after);
        batch.map(Some).map_err(|error| ArrowError::ExternalError(Box::new(error)))
    }
}
