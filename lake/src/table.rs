//! One table as the writer has it: segments and key index, newer than any view.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{BooleanArray, new_null_array},
    compute::filter_record_batch,
    error::ArrowError,
    record_batch::RecordBatch,
};
use medlake_contract::{ChangeBatch, Op, TableSchema};

use crate::{
    error::LakeError,
    key::{KeyCodec, KeyIndex, Keys, Location},
    segment::{Segment, SegmentData},
    view::TableView,
};

/// Changes that were checked and can be applied without failing.
pub(crate) struct CheckedChanges {
    ops: Vec<Op>,
    /// The rows after, without the ones that are not there, in order.
    after: RecordBatch,
    after_keys: Keys,
    /// Keys of all rows before; those of inserts are never looked at.
    before_keys: Keys,
}

#[derive(Debug)]
pub(crate) struct TableState {
    schema: Arc<TableSchema>,
    codec: KeyCodec,
    pub(crate) index: KeyIndex,
    pub(crate) segments: BTreeMap<u32, Segment>,
    next_segment: u32,
    /// The hot segment that takes new rows.
    open: Option<u32>,
    /// The picture of the present state, made when asked for.
    view: Option<Arc<TableView>>,
}

impl TableState {
    pub(crate) fn new(schema: Arc<TableSchema>) -> Result<Self, LakeError> {
        let codec = KeyCodec::new(&schema).map_err(|source| LakeError::Arrow {
            doing: "encode the key",
            table: schema.name().clone(),
            source,
        })?;
        Ok(Self {
            index: codec.empty_index(),
            codec,
            schema,
            segments: BTreeMap::new(),
            next_segment: 1,
            open: None,
            view: None,
        })
    }

    pub(crate) fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Rows and bytes that are in no file yet.
    pub(crate) fn hot(&self) -> (u64, u64) {
        self.segments.values().fold((0, 0), |(rows, bytes), s| match &s.data {
            SegmentData::Hot(hot) => (rows + u64::from(s.rows), bytes + hot.bytes as u64),
        })
    }

    /// Checks changes and brings them into the form [`Self::apply`] takes. Changes nothing.
    pub(crate) fn check(&self, batch: &ChangeBatch) -> Result<CheckedChanges, LakeError> {
        let wrong =
            |problem: String| LakeError::Rows { table: self.schema.name().clone(), problem };
        let arrow = |source: ArrowError| LakeError::Arrow {
            doing: "prepare changes",
            table: self.schema.name().clone(),
            source,
        };
        if batch.table().columns() != self.schema.columns()
            || batch.table().key_indices() != self.schema.key_indices()
        {
            return Err(wrong("their columns or key are not those of the table".to_owned()));
        }
        for (row, op) in batch.ops().iter().enumerate() {
            if *op != Op::Insert && !self.codec.is_complete(batch.before(), row) {
                return Err(wrong(format!("row {row} before has a null key column")));
            }
        }
        let exists: BooleanArray = batch.ops().iter().map(|op| Some(*op != Op::Delete)).collect();
        let after = if exists.true_count() == exists.len() {
            batch.after().clone()
        } else {
            filter_record_batch(batch.after(), &exists).map_err(arrow)?
        };
        let after = RecordBatch::try_new(Arc::clone(self.schema.arrow()), after.columns().to_vec())
            .map_err(|e| wrong(e.to_string()))?;
        Ok(CheckedChanges {
            ops: batch.ops().to_vec(),
            after_keys: self.codec.keys(&after).map_err(arrow)?,
            before_keys: self.codec.keys(batch.before()).map_err(arrow)?,
            after,
        })
    }

    /// Applies checked changes in order. Rows that a later change of the same batch replaces are
    /// appended dead, so the outcome does not depend on how a source's changes are cut into batches.
    pub(crate) fn apply(&mut self, changes: CheckedChanges) {
        self.view = None;
        let id = self.open_segment();
        let first = self.segments.get(&id).map_or(0, |s| s.rows);
        let CheckedChanges { ops, after, after_keys, before_keys } = changes;
        self.index.reserve(after.num_rows());
        let count = u32::try_from(after.num_rows()).unwrap_or(u32::MAX);
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.rows += count;
            if count > 0 {
                let SegmentData::Hot(hot) = &mut segment.data;
                hot.push(after);
            }
        }
        let mut next = 0_usize;
        let mut row = first;
        for (at, op) in ops.into_iter().enumerate() {
            match op {
                Op::Delete => {
                    if let Some(gone) = self.index.take(&before_keys, at) {
                        self.kill(gone);
                    }
                    continue;
                }
                Op::Update if !before_keys.same(at, &after_keys, next) => {
                    if let Some(gone) = self.index.take(&before_keys, at) {
                        self.kill(gone);
                    }
                }
                Op::Update | Op::Insert => {}
            }
            if let Some(gone) = self.index.put(&after_keys, next, Location { segment: id, row }) {
                self.kill(gone);
            }
            next += 1;
            row += 1;
        }
    }

    fn kill(&mut self, at: Location) {
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.kill(at.row);
        }
    }

    /// The id of the hot segment that takes new rows.
    fn open_segment(&mut self) -> u32 {
        if let Some(id) = self.open {
            return id;
        }
        let id = self.next_segment;
        self.next_segment += 1;
        self.segments.insert(id, Segment::hot(id));
        self.open = Some(id);
        id
    }

    /// The columns the table has from now on; rows in memory get nulls for new ones.
    pub(crate) fn evolve(&mut self, schema: Arc<TableSchema>) -> Result<(), LakeError> {
        for segment in self.segments.values_mut() {
            let SegmentData::Hot(hot) = &mut segment.data;
            for batch in &mut hot.batches {
                let mut columns = batch.columns().to_vec();
                for column in &schema.columns()[columns.len()..] {
                    columns.push(new_null_array(&column.ty.arrow(), batch.num_rows()));
                }
                *batch =
                    Arc::new(RecordBatch::try_new(Arc::clone(schema.arrow()), columns).map_err(
                        |source| LakeError::Arrow {
                            doing: "add columns",
                            table: schema.name().clone(),
                            source,
                        },
                    )?);
            }
        }
        self.schema = schema;
        self.view = None;
        Ok(())
    }

    /// An immutable picture of the present state.
    pub(crate) fn view(&mut self) -> Arc<TableView> {
        let view = self.view.get_or_insert_with(|| {
            Arc::new(TableView::new(
                Arc::clone(&self.schema),
                self.segments.values().cloned().collect(),
            ))
        });
        Arc::clone(view)
    }
}
