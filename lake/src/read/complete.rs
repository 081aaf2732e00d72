//! Changes whose sources did not send all of them.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, new_null_array},
    compute::{concat_batches, interleave},
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, SortField},
};
use medlake_contract::{
    ChangeBatch, ChangeSet, CopyScope, Identity, Op, RowCopy, TableName, TableSchema,
};

use crate::{error::LakeError, lake::Lake, read::differences::rows};

impl Lake {
    /// Completes the changes of a set before it is staged: values after that were not sent are those of
    /// the row as it is staged or as an earlier change of the set left it, and a row before of which
    /// there is the key alone becomes the whole row. Changes that are whole cost a look at their
    /// columns.
    ///
    /// Answers the tables that have a change with a value that nobody has, as the row is not there;
    /// their changes are no longer in the set. Those of a table whose rows cannot be read for now are
    /// as they were: doing it again completes them.
    pub async fn complete(&self, set: &mut ChangeSet) -> Vec<(TableName, LakeError)> {
        let staged = self.staged_positions();
        let is_seen = |table: &TableName| {
            let mut positions = set.positions.iter();
            let position = positions.find(|(source, _)| source.as_str() == table.namespace());
            position.is_some_and(|(source, at)| staged.get(source).is_some_and(|s| at <= s))
        };
        let mut tables: Vec<TableName> = Vec::new();
        for batch in &set.batches {
            let name = batch.table().name();
            if !tables.contains(name) && !is_seen(name) && is_partial(batch) {
                tables.push(name.clone());
            }
        }
        let mut failed = Vec::new();
        for name in tables {
            let of: Vec<usize> = (0..set.batches.len())
                .filter(|at| set.batches[*at].table().name() == &name)
                .collect();
            let batches: Vec<&ChangeBatch> = of.iter().map(|at| &set.batches[*at]).collect();
            match self.completed(&batches).await {
                Ok(whole) => {
                    of.into_iter().zip(whole).for_each(|(at, batch)| set.batches[at] = batch);
                }
                Err(error) => {
                    if !error.kind().retryable() {
                        set.batches.retain(|batch| batch.table().name() != &name);
                    }
                    failed.push((name, error));
                }
            }
        }
        failed
    }

    async fn completed(&self, batches: &[&ChangeBatch]) -> Result<Vec<ChangeBatch>, LakeError> {
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let table = first.table();
        let arrow = |source| LakeError::Arrow {
            doing: "complete changes",
            table: table.name().clone(),
            source,
        };
        let keys = Keys::new(table).map_err(arrow)?;
        let wanted = batches.iter().flat_map(|b| [b.before(), b.after()]);
        let wanted: Vec<RecordBatch> = wanted
            .map(|b| b.project(table.key_indices()))
            .collect::<Result<_, _>>()
            .map_err(arrow)?;
        let schema = wanted[0].schema();
        let wanted = concat_batches(&schema, &wanted).map_err(arrow)?;
        let copy = RowCopy {
            table: Arc::clone(table),
            scope: CopyScope::Keys(wanted),
            rows: RecordBatch::new_empty(Arc::clone(table.arrow_nullable())),
        };
        let (view, found) = self.find(&copy)?;
        let held = match found {
            Some(found) => rows(&view, found).await?,
            None => Vec::new(),
        };
        let mut walk = Walk::new(table, &keys, batches, &held).map_err(arrow)?;
        for (at, batch) in batches.iter().enumerate() {
            walk.batch(at, batch)?;
        }
        let done = batches.iter().enumerate().map(|(at, batch)| walk.finish(at, batch));
        done.collect::<Result<_, _>>().map_err(arrow)
    }
}

/// Whether something of a batch was not sent. Rows before that are null but for their key count.
fn is_partial(batch: &ChangeBatch) -> bool {
    if !batch.unsent().is_empty() {
        return true;
    }
    batch.table().identity() == Identity::Key
        && batch.ops().iter().enumerate().any(|(row, op)| is_key_alone(batch, row, *op))
}

fn is_key_alone(batch: &ChangeBatch, row: usize, op: Op) -> bool {
    let keys = batch.table().key_indices();
    let columns = batch.before().columns();
    matches!(op, Op::Update | Op::Delete)
        && columns.len() > keys.len()
        && columns.iter().enumerate().all(|(at, c)| c.is_null(row) || keys.contains(&at))
}

/// The keys of rows as bytes.
struct Keys {
    converter: RowConverter,
    columns: Vec<usize>,
}

impl Keys {
    fn new(table: &TableSchema) -> Result<Self, ArrowError> {
        let columns = table.key_indices().to_vec();
        let fields = columns.iter().map(|at| SortField::new(table.columns()[*at].ty.arrow()));
        Ok(Self { converter: RowConverter::new(fields.collect())?, columns })
    }

    fn of(&self, batch: &RecordBatch) -> Result<arrow::row::Rows, ArrowError> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|at| Arc::clone(batch.column(*at))).collect();
        self.converter.convert_columns(&columns)
    }
}

/// A row: of those held, or the one after a change.
type Place = (usize, usize);

/// Goes through the changes and knows each row as it is in between.
struct Walk<'a> {
    table: &'a Arc<TableSchema>,
    /// Rows held, then the rows after of each batch.
    sources: Vec<RecordBatch>,
    held: usize,
    keys: Vec<[arrow::row::Rows; 2]>,
    rows: HashMap<Box<[u8]>, Place>,
    /// Rows that went in this set: one of them may be there again under another key.
    gone: HashMap<Box<[u8]>, Place>,
    before: HashMap<Place, Place>,
    /// By batch, row and column.
    after: HashMap<(usize, usize, usize), Place>,
}

impl<'a> Walk<'a> {
    fn new(
        table: &'a Arc<TableSchema>,
        keys: &Keys,
        batches: &[&ChangeBatch],
        held: &[RecordBatch],
    ) -> Result<Self, ArrowError> {
        let mut rows = HashMap::new();
        let mut sources = Vec::new();
        for (at, batch) in held.iter().enumerate() {
            for (row, key) in keys.of(batch)?.iter().enumerate() {
                rows.insert(key.as_ref().into(), (at, row));
            }
            sources.push(batch.clone());
        }
        sources.extend(batches.iter().map(|b| b.after().clone()));
        let keys = batches
            .iter()
            .map(|b| Ok([keys.of(b.before())?, keys.of(b.after())?]))
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self {
            table,
            sources,
            held: held.len(),
            keys,
            rows,
            gone: HashMap::new(),
            before: HashMap::new(),
            after: HashMap::new(),
        })
    }

    fn batch(&mut self, at: usize, batch: &ChangeBatch) -> Result<(), LakeError> {
        let mut unsent = batch.unsent().iter().peekable();
        for (row, op) in batch.ops().iter().enumerate() {
            let key = |side: usize| Box::<[u8]>::from(self.keys[at][side].row(row).as_ref());
            let (before, after) = (key(0), key(1));
            // An insert has a key before when it is a row that had another one.
            let moved =
                batch.table().key_indices().iter().all(|k| batch.before().column(*k).is_valid(row));
            let from = match op {
                Op::Truncate => {
                    self.rows.clear();
                    self.gone.clear();
                    continue;
                }
                Op::Insert if !moved => self.rows.get(&after).copied(),
                _ => self.rows.get(&before).or_else(|| self.gone.get(&before)).copied(),
            };
            if let (Some(from), true) = (from, is_key_alone(batch, row, *op)) {
                self.before.insert((at, row), from);
            }
            while let Some(cell) = unsent.next_if(|cell| cell.row == row) {
                let Some(from) = from else {
                    let column = &batch.table().columns()[cell.column].name;
                    return Err(LakeError::Rows {
                        table: batch.table().name().clone(),
                        problem: format!(
                            "the source did not send the value of column \"{column}\", as it did not \
                             change, and the table does not have the row"
                        ),
                    });
                };
                // The row may have it from yet another one.
                let of_set = from.0.checked_sub(self.held);
                let from = of_set
                    .and_then(|batch| self.after.get(&(batch, from.1, cell.column)).copied())
                    .unwrap_or(from);
                self.after.insert((at, row, cell.column), from);
            }
            if matches!(op, Op::Update | Op::Delete)
                && let Some(went) = self.rows.remove(&before)
            {
                self.gone.insert(before, went);
            }
            if matches!(op, Op::Insert | Op::Update) {
                self.rows.insert(after, (self.held + at, row));
            }
        }
        Ok(())
    }

    fn finish(&self, at: usize, batch: &ChangeBatch) -> Result<ChangeBatch, ArrowError> {
        let schema = self.table.arrow_nullable();
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (column, field) in schema.fields().iter().enumerate() {
            let none = new_null_array(field.data_type(), 1);
            let own = self.sources.iter().map(|s| s.column(column).as_ref());
            let sources: Vec<&dyn Array> =
                own.chain([batch.before().column(column).as_ref(), none.as_ref()]).collect();
            let resolve = |place: Place| {
                let set = place.0.checked_sub(self.held);
                let found = set.and_then(|b| self.after.get(&(b, place.1, column)));
                found.copied().unwrap_or(place)
            };
            let old: Vec<Place> = (0..batch.ops().len())
                .map(|row| match self.before.get(&(at, row)) {
                    Some(place) => resolve(*place),
                    None => (self.sources.len(), row),
                })
                .collect();
            let new: Vec<Place> =
                (0..batch.ops().len()).map(|row| resolve((self.held + at, row))).collect();
            before.push(interleave(&sources, &old)?);
            after.push(interleave(&sources, &new)?);
        }
        let image = |columns| RecordBatch::try_new(Arc::clone(schema), columns);
        ChangeBatch::new(
            Arc::clone(self.table),
            batch.ops().to_vec(),
            image(before)?,
            image(after)?,
        )
        .map_err(|error| ArrowError::ExternalError(Box::new(error)))
    }
}
