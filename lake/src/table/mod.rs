//! One table as the writer has it: segments and key index, newer than any view.

pub(crate) mod absorb;
pub(crate) mod digest;
pub(crate) mod forward;
pub(crate) mod index_copy;
pub(crate) mod key;
pub(crate) mod load;
pub(crate) mod ranks;
pub(crate) mod segment;
pub(crate) mod shards;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::BooleanArray, compute::filter_record_batch, error::ArrowError, record_batch::RecordBatch,
};
use medlake_contract::{ChangeBatch, Column, Identity, Op, TableSchema};
use roaring::RoaringBitmap;

use crate::{
    commit::write::WrittenTable,
    error::LakeError,
    format::{adapt::Adapter, data_file::LakeFile, schema::Shape},
    read::view::TableView,
    table::{
        forward::{Carried, Forward},
        key::{KeyCodec, KeyIndex, Keys, Location},
        segment::{HotRows, Segment, SegmentData},
        shards::Seed,
    },
};

/// More segments than this that went are not kept in mind: the index is rewritten.
const FORWARDS: usize = 64;

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
    shape: Arc<Shape>,
    schema: Arc<TableSchema>,
    codec: Arc<KeyCodec>,
    /// None until it is loaded; nothing is applied before.
    index: Option<KeyIndex>,
    pub(crate) segments: BTreeMap<u32, Segment>,
    next_segment: u32,
    /// Where the rows of segments went that the index may still name.
    forwards: BTreeMap<u32, Forward>,
    /// The hot segment that takes new rows.
    open: Option<u32>,
    /// The picture of the present state, made when asked for.
    view: Option<Arc<TableView>>,
}

impl TableState {
    /// An empty table; `seed` is of its id.
    pub(crate) fn new(shape: Arc<Shape>, seed: Seed) -> Result<Self, LakeError> {
        let schema = Arc::clone(shape.schema());
        let codec = KeyCodec::new(&schema, seed).map_err(|source| LakeError::Arrow {
            doing: "encode the key",
            table: schema.name().clone(),
            source,
        })?;
        Ok(Self {
            index: Some(codec.index(0)),
            codec: Arc::new(codec),
            schema,
            shape,
            segments: BTreeMap::new(),
            next_segment: 1,
            forwards: BTreeMap::new(),
            open: None,
            view: None,
        })
    }

    pub(crate) fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// What makes keys of rows.
    pub(crate) fn codec(&self) -> &Arc<KeyCodec> {
        &self.codec
    }

    /// The key index, once it is there.
    pub(crate) fn index(&self) -> Option<&KeyIndex> {
        self.index.as_ref()
    }

    pub(crate) fn set_index(&mut self, index: KeyIndex) {
        self.index = Some(index);
    }

    /// Rows and bytes that are in no file yet.
    pub(crate) fn hot(&self) -> (u64, u64) {
        self.segments.values().fold((0, 0), |(rows, bytes), s| match &s.data {
            SegmentData::Hot(hot) => (rows + u64::from(s.rows), bytes + hot.bytes as u64),
            SegmentData::File(_) => (rows, bytes),
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
            || batch.table().identity() != self.schema.identity()
        {
            return Err(wrong("their columns or key are not those of the table".to_owned()));
        }
        if !batch.unsent().is_empty() {
            return Err(wrong("values of them were not sent, and were not put in".to_owned()));
        }
        if self.index.is_none() {
            return Err(LakeError::IndexNotLoaded { table: self.schema.name().clone() });
        }
        for (row, op) in batch.ops().iter().enumerate() {
            let what = match op {
                Op::Insert | Op::Truncate => continue,
                Op::Update => "an update",
                Op::Delete => "a delete",
            };
            if self.schema.identity() == Identity::Append {
                return Err(wrong(format!(
                    "change {row} is {what}, but the table is declared as append-only: declare its \
                     key, or that its changes carry whole rows"
                )));
            }
            if !self.codec.is_complete(batch.before(), row) {
                return Err(wrong(format!("row {row} before has a null key column")));
            }
        }
        let exists: BooleanArray =
            batch.ops().iter().map(|op| Some(matches!(op, Op::Insert | Op::Update))).collect();
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
        // Changes were checked, so it is there.
        let Some(mut index) = self.index.take() else { return };
        self.view = None;
        let id = self.open_segment();
        let first = self.segments.get(&id).map_or(0, |s| s.rows);
        let CheckedChanges { ops, after, after_keys, before_keys } = changes;
        let count = u32::try_from(after.num_rows()).unwrap_or(u32::MAX);
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.rows += count;
            if let (SegmentData::Hot(hot), 1..) = (&mut segment.data, count) {
                hot.push(after);
            }
        }
        let mut next = 0_usize;
        let mut row = first;
        // Marked together at the end: one segment after the other, each in its order.
        let mut dead = Vec::with_capacity(ops.len());
        for (at, op) in ops.into_iter().enumerate() {
            match op {
                Op::Delete => {
                    dead.extend(index.take(&before_keys, at));
                    continue;
                }
                Op::Update if !before_keys.same(at, &after_keys, next) => {
                    dead.extend(index.take(&before_keys, at));
                }
                Op::Truncate => {
                    index.clear();
                    self.truncate(id, row);
                    continue;
                }
                Op::Update | Op::Insert => {}
            }
            dead.extend(index.put(&after_keys, next, Location { segment: id, row }));
            next += 1;
            row += 1;
        }
        self.index = Some(index);
        self.kill_all(dead);
    }

    /// Kills every row there is: all of other segments, and those before `row` of the open one, whose
    /// later rows come after the truncate.
    fn truncate(&mut self, open: u32, row: u32) {
        self.forwards.clear();
        for segment in self.segments.values_mut() {
            segment.kill_before(if segment.id == open { row } else { segment.rows });
        }
    }

    fn kill_all(&mut self, rows: Vec<Location>) {
        let mut rows: Vec<Location> = rows.into_iter().filter_map(|at| self.resolve(at)).collect();
        rows.sort_unstable();
        for rows in rows.chunk_by(|a, b| a.segment == b.segment) {
            let segment = rows.first().and_then(|at| self.segments.get_mut(&at.segment));
            if let Some(segment) = segment {
                segment.kill_all(rows.iter().map(|at| at.row));
            }
        }
    }

    fn kill(&mut self, at: Location) {
        if let Some(at) = self.resolve(at)
            && let Some(segment) = self.segments.get_mut(&at.segment)
        {
            segment.kill(at.row);
        }
    }

    /// Where a row is now that the index has at `at`; none when it is nowhere.
    pub(crate) fn resolve(&self, at: Location) -> Option<Location> {
        follow(&self.forwards, at)
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

    /// The columns the table has from now on; rows in memory take them on. Answers whether its rows
    /// are told apart in another way now: then its index is gone, and is to be built again.
    pub(crate) fn evolve(&mut self, shape: Arc<Shape>) -> Result<bool, LakeError> {
        let adapter = Adapter::between(&self.shape, &shape)?;
        for segment in self.segments.values_mut() {
            let SegmentData::Hot(hot) = &mut segment.data else { continue };
            for batch in &mut hot.batches {
                let adapted = adapter.adapt(batch).map_err(|source| LakeError::Arrow {
                    doing: "change the columns",
                    table: self.schema.name().clone(),
                    source,
                })?;
                *batch = Arc::new(adapted);
            }
        }
        // The key is the same, but its columns may stand elsewhere.
        let codec = KeyCodec::new(shape.schema(), self.codec.seed()).map_err(|source| {
            LakeError::Arrow { doing: "encode the key", table: self.schema.name().clone(), source }
        })?;
        self.codec = Arc::new(codec);
        let lost = self.schema.identity() == Identity::FullRow && !keeps_rows(&self.shape, &shape);
        if lost {
            self.index = None;
        }
        self.schema = Arc::clone(shape.schema());
        self.shape = shape;
        self.view = None;
        Ok(lost)
    }

    /// Fills an empty table from its data files, each with its dead positions. Its key index is then
    /// to be built: rows can be read, but not yet changed.
    pub(crate) fn load(&mut self, files: Vec<(Arc<LakeFile>, RoaringBitmap)>) {
        for (file, dead) in files {
            let id = self.next_segment;
            self.next_segment += 1;
            self.segments.insert(id, Segment::of_file(id, file, Arc::new(dead)));
        }
        let rows: u64 = self.segments.values().map(Segment::live_rows).sum();
        if self.schema.identity() != Identity::Append && rows > 0 {
            self.index = None;
        }
    }

    /// Ends the open hot segment at the rows `seen` has of it. Rows staged since move to a new
    /// segment, so that what is written is exactly what was published.
    pub(crate) fn seal(&mut self, seen: &TableView) -> Result<(), LakeError> {
        let Some(open) = self.open else { return Ok(()) };
        let Some(rows) = seen.segments.iter().find(|s| s.id == open).map(|s| s.rows) else {
            return Ok(());
        };
        let Some(segment) = self.segments.get_mut(&open) else { return Ok(()) };
        if rows == 0 {
            return Ok(());
        }
        let mut tail = HotRows::default();
        let mut keys = Vec::new();
        if let (SegmentData::Hot(hot), true) = (&mut segment.data, segment.rows > rows) {
            // On a copy, so that nothing is changed should the keys fail.
            let mut head = hot.clone();
            tail = head.split_off(rows);
            for batch in &tail.batches {
                let batch_keys = self.codec.keys(batch).map_err(|source| LakeError::Arrow {
                    doing: "split rows",
                    table: self.schema.name().clone(),
                    source,
                })?;
                keys.push((batch_keys, batch.num_rows()));
            }
            *hot = head;
        }
        let tail_rows = segment.rows - rows;
        segment.rows = rows;
        self.open = None;
        self.view = None;
        if tail_rows == 0 {
            return Ok(());
        }
        let dead: RoaringBitmap = segment.dead.range(rows..).map(|row| row - rows).collect();
        Arc::make_mut(&mut segment.dead).remove_range(rows..);
        let id = self.open_segment();
        let mut row = 0_u32;
        for (keys, count) in keys {
            for at in 0..count {
                if !dead.contains(row)
                    && let Some(index) = &mut self.index
                {
                    let from = Location { segment: open, row: rows + row };
                    index.repoint(&keys, at, from, Location { segment: id, row });
                }
                row += 1;
            }
        }
        if let Some(segment) = self.segments.get_mut(&id) {
            *segment =
                Segment { id, rows: tail_rows, data: SegmentData::Hot(tail), dead: Arc::new(dead) };
        }
        Ok(())
    }

    /// Takes over what was committed. Rows that died since the view it was made from are dead in the
    /// new files too, and are deleted by position in the next flush. Gives the id of the first segment
    /// of each replacement, for [`relocate`].
    pub(crate) fn install(&mut self, written: &WrittenTable, carried: &[Carried]) -> Vec<u32> {
        self.view = None;
        let mut bases = Vec::with_capacity(written.replacements.len());
        for replacement in &written.replacements {
            let base = self.next_segment;
            self.next_segment += u32::try_from(replacement.files.len()).unwrap_or(u32::MAX);
            self.forwards.extend(replacement.forwards(base));
            bases.push(base);
        }
        relocate(&mut self.segments, written, &bases, carried);
        bases
    }

    /// Takes over files that no commit names yet: the next one does.
    pub(crate) fn spilled(&mut self, written: &WrittenTable, carried: &[Carried]) {
        self.install(written, carried);
        for entry in &written.change.added {
            let location = entry.file.file_path();
            let of_file = self.segments.values_mut().rev().find_map(|s| match &mut s.data {
                SegmentData::File(rows) if rows.file.location == location => Some(rows),
                _ => None,
            });
            if let Some(rows) = of_file {
                rows.spilled = Some(Arc::new(entry.clone()));
            }
        }
    }

    /// The segments that went whose rows the index should learn the new places of, once these are so
    /// many that doing it costs each of them little. None while there is no index: one that is being
    /// built may have the places from before.
    pub(crate) fn forwarded(&self) -> Vec<u32> {
        let Some(index) = &self.index else { return Vec::new() };
        let rows: usize = self.forwards.values().map(Forward::rows).sum();
        if self.forwards.len() > FORWARDS || rows > index.len() / 4 {
            self.forwards.keys().copied().collect()
        } else {
            Vec::new()
        }
    }

    /// Rewrites the entries of one slice of the index to where their rows are. Answers whether there
    /// was such a slice. A slice takes about a millisecond, so that others get the lock in between.
    pub(crate) fn repoint(&mut self, slice: usize) -> bool {
        let Self { index: Some(index), forwards, .. } = self else { return false };
        if slice >= index.slices() {
            return false;
        }
        index.relocate_slice(slice, &mut |at| follow(forwards, at).unwrap_or(at));
        true
    }

    /// Drops addresses that no index entry needs any more.
    pub(crate) fn forget(&mut self, forwarded: &[u32]) {
        for segment in forwarded {
            self.forwards.remove(segment);
        }
    }

    /// An immutable picture of the present state.
    pub(crate) fn view(&mut self) -> Arc<TableView> {
        let view = self.view.get_or_insert_with(|| {
            Arc::new(TableView::new(
                Arc::clone(&self.shape),
                self.segments.values().cloned().collect(),
            ))
        });
        Arc::clone(view)
    }
}

/// Puts the files of a committed flush in the place of the rows they were written from, in any
/// picture of the table at or after the one that was written. `bases` are the ids of the first segment
/// of each replacement, `carried` what is known already of the rows that died since.
pub(crate) fn relocate(
    segments: &mut BTreeMap<u32, Segment>,
    written: &WrittenTable,
    bases: &[u32],
    carried: &[Carried],
) {
    for flushed in &written.flushed {
        match (&flushed.file, segments.get_mut(&flushed.segment)) {
            (Some(file), Some(segment)) => segment.settle(Arc::clone(file), &flushed.elided),
            _ => {
                segments.remove(&flushed.segment);
            }
        }
    }
    for (id, dead) in &written.committed_dead {
        if let Some(Segment { data: SegmentData::File(file), .. }) = segments.get_mut(id) {
            file.committed_dead = Arc::clone(dead);
        }
    }
    for id in &written.named {
        if let Some(Segment { data: SegmentData::File(file), .. }) = segments.get_mut(id) {
            file.spilled = None;
        }
    }
    for id in &written.dropped {
        segments.remove(id);
    }
    for ((replacement, base), carried) in written.replacements.iter().zip(bases).zip(carried) {
        replacement.relocate(segments, *base, carried.clone());
    }
}

/// Whether whole rows are known by the same as before: the names and values of their columns that are
/// not null. Columns that come, and are null in the rows there are, change nothing of that.
fn keeps_rows(before: &Shape, after: &Shape) -> bool {
    let columns = |shape: &Shape| -> Vec<(i32, Column, bool)> {
        let fields = shape.fields().iter().zip(shape.schema().columns());
        fields.map(|(f, column)| (f.id, column.clone(), f.default.is_some())).collect()
    };
    let (before, after) = (columns(before), columns(after));
    let kept = before.iter().all(|(id, was, _)| {
        let same = after.iter().find(|(now, is, _)| now == id && is.name == was.name);
        same.is_some_and(|(_, is, _)| !was.ty.is_nested() || is.ty == was.ty)
    });
    let is_new = |id: i32| before.iter().all(|(was, ..)| *was != id);
    kept && !after.iter().any(|(id, _, filled)| is_new(*id) && *filled)
}

/// Goes from address to address. Ends, for a segment's id is always below those of its successors.
fn follow(forwards: &BTreeMap<u32, Forward>, at: Location) -> Option<Location> {
    let mut at = at;
    while let Some(forward) = forwards.get(&at.segment) {
        at = forward.location(at.row)?;
    }
    Some(at)
}
