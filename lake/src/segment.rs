//! The pieces a table is made of.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use roaring::RoaringBitmap;

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
}

/// Rows in memory, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct HotRows {
    pub(crate) batches: Vec<Arc<RecordBatch>>,
    pub(crate) bytes: usize,
}

impl HotRows {
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

    /// Marks the row of this number dead.
    pub(crate) fn kill(&mut self, row: u32) {
        match &self.data {
            SegmentData::Hot(_) => {
                Arc::make_mut(&mut self.dead).insert(row);
            }
        }
    }

    /// Rows that live.
    pub(crate) fn live_rows(&self) -> u64 {
        match &self.data {
            SegmentData::Hot(_) => u64::from(self.rows) - self.dead.len(),
        }
    }
}
