//! The pieces a table is made of.

use std::sync::Arc;

use arrow::{
    array::BooleanArray, compute::filter_record_batch, error::ArrowError, record_batch::RecordBatch,
};
use roaring::RoaringBitmap;

use crate::{commit::manifest::NewEntry, format::data_file::LakeFile, table::ranks::RankedRows};

/// Batches below this many rows are joined with their neighbours, so that a stream of tiny
/// transactions does not become a list of tiny batches.
const JOIN_ROWS: usize = 8_192;

/// Part of a table: rows in memory or one data file, with the rows of it that are dead.
///
/// Immutable once cloned into a view: the bitmaps are copied on write.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) id: u32,
    /// Row numbers given so far.
    pub(crate) rows: u32,
    pub(crate) data: SegmentData,
    /// Dead rows: row numbers of a hot segment, file positions of a file segment.
    pub(crate) dead: Arc<RoaringBitmap>,
}

#[derive(Debug, Clone)]
pub(crate) enum SegmentData {
    Hot(HotRows),
    File(FileRows),
}

/// Rows in one data file.
#[derive(Debug, Clone)]
pub(crate) struct FileRows {
    pub(crate) file: Arc<LakeFile>,
    /// Row numbers that were dead already when the file was written and are not in it. A row's
    /// position in the file is its number less the elided numbers before it.
    pub(crate) elided: Option<Arc<RankedRows>>,
    /// The dead positions that committed delete files already name.
    pub(crate) committed_dead: Arc<RoaringBitmap>,
    /// What the next commit has to say of the file, when no commit has named it yet.
    pub(crate) spilled: Option<Arc<NewEntry>>,
}

impl FileRows {
    /// The file position of a row that is in the file.
    pub(crate) fn position(&self, row: u32) -> u32 {
        match &self.elided {
            None => row,
            Some(elided) => row - elided.below(row),
        }
    }
}

/// Rows in memory, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct HotRows {
    pub(crate) batches: Vec<Arc<RecordBatch>>,
    pub(crate) bytes: usize,
}

impl HotRows {
    /// Takes off the rows from number `keep` on.
    pub(crate) fn split_off(&mut self, keep: u32) -> Self {
        let mut first = 0_usize;
        let keep = keep as usize;
        let mut head = Self::default();
        let mut tail = Self::default();
        for batch in self.batches.drain(..) {
            let rows = batch.num_rows();
            let cut = keep.saturating_sub(first).min(rows);
            first += rows;
            for (part, from, len) in [(&mut head, 0, cut), (&mut tail, cut, rows - cut)] {
                if len > 0 {
                    let slice = batch.slice(from, len);
                    part.bytes += slice.get_array_memory_size();
                    part.batches.push(Arc::new(slice));
                }
            }
        }
        *self = head;
        tail
    }

    /// Appends a batch; joins it with small predecessors so that the list stays logarithmic.
    pub(crate) fn push(&mut self, batch: RecordBatch) {
        self.bytes += batch.get_array_memory_size();
        self.batches.push(Arc::new(batch));
        while let [.., a, b] = self.batches.as_slice() {
            if a.num_rows() > b.num_rows() * 2 || a.num_rows() + b.num_rows() > JOIN_ROWS {
                break;
            }
            // A join that fails leaves the two apart, which is as right.
            let Ok(joined) =
                arrow::compute::concat_batches(a.schema_ref(), [a.as_ref(), b.as_ref()])
            else {
                break;
            };
            self.bytes =
                self.bytes.saturating_sub(a.get_array_memory_size() + b.get_array_memory_size())
                    + joined.get_array_memory_size();
            self.batches.truncate(self.batches.len() - 2);
            self.batches.push(Arc::new(joined));
        }
    }
}

impl Segment {
    pub(crate) fn hot(id: u32) -> Self {
        Self {
            id,
            rows: 0,
            data: SegmentData::Hot(HotRows::default()),
            dead: Arc::new(RoaringBitmap::new()),
        }
    }

    /// A data file as a segment of its own.
    pub(crate) fn of_file(id: u32, file: Arc<LakeFile>, dead: Arc<RoaringBitmap>) -> Self {
        let committed_dead = Arc::clone(&dead);
        Self {
            id,
            rows: file.rows,
            data: SegmentData::File(FileRows { file, elided: None, committed_dead, spilled: None }),
            dead,
        }
    }

    /// Replaces the rows in memory by the file they were written to, without the rows in `elided`.
    /// Row numbers stay as they are.
    pub(crate) fn settle(&mut self, file: Arc<LakeFile>, elided: &Arc<RankedRows>) {
        let rows = FileRows {
            file,
            elided: (!elided.is_empty()).then(|| Arc::clone(elided)),
            committed_dead: Arc::new(RoaringBitmap::new()),
            spilled: None,
        };
        let late = &*self.dead - &**elided.rows();
        self.dead = Arc::new(late.into_iter().map(|row| rows.position(row)).collect());
        self.data = SegmentData::File(rows);
    }

    /// The file, when it is one.
    pub(crate) fn file(&self) -> Option<&FileRows> {
        match &self.data {
            SegmentData::Hot(_) => None,
            SegmentData::File(file) => Some(file),
        }
    }

    /// The file, when it is one that a commit has named.
    pub(crate) fn committed_file(&self) -> Option<&FileRows> {
        self.file().filter(|file| file.spilled.is_none())
    }

    /// Marks the row of this number dead.
    pub(crate) fn kill(&mut self, row: u32) {
        self.kill_all(std::iter::once(row));
    }

    /// Marks the rows of these numbers dead; quickest when they ascend.
    pub(crate) fn kill_all(&mut self, rows: impl Iterator<Item = u32>) {
        let dead = Arc::make_mut(&mut self.dead);
        match &self.data {
            SegmentData::Hot(_) => dead.extend(rows),
            SegmentData::File(file) => dead.extend(rows.map(|row| file.position(row))),
        }
    }

    /// Marks all rows before the one of this number dead.
    pub(crate) fn kill_before(&mut self, row: u32) {
        let end = match &self.data {
            SegmentData::Hot(_) => row,
            SegmentData::File(file) => file.file.rows.min(row),
        };
        Arc::make_mut(&mut self.dead).insert_range(..end);
    }

    /// Rows that live.
    pub(crate) fn live_rows(&self) -> u64 {
        let all = match &self.data {
            SegmentData::Hot(_) => self.rows,
            SegmentData::File(file) => file.file.rows,
        };
        u64::from(all) - self.dead.len()
    }
}

/// The rows of a batch that are not dead; `first..end` are its row numbers.
pub(crate) fn without_dead(
    batch: RecordBatch,
    dead: &RoaringBitmap,
    first: u32,
    end: u32,
) -> Result<RecordBatch, ArrowError> {
    if dead.range_cardinality(first..end) == 0 {
        return Ok(batch);
    }
    let mut live = vec![true; batch.num_rows()];
    for row in dead.range(first..end) {
        live[(row - first) as usize] = false;
    }
    filter_record_batch(&batch, &BooleanArray::from(live))
}
