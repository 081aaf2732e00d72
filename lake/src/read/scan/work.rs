//! The work of a scan, shared by its partitions: whoever is free takes the next row group.
//!
//! A file is opened by the first partition that finds no row group ready; a partition that finds
//! nothing left but files being opened waits with the opener, by polling the same future, so no
//! partition depends on another one being polled.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{array::BooleanBufferBuilder, buffer::BooleanBuffer, record_batch::RecordBatch};
use datafusion::{
    common::pruning::PruningStatistics,
    error::{DataFusionError, Result},
    physical_optimizer::pruning::PruningPredicate,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use roaring::RoaringBitmap;

use crate::{
    format::{
        adapt::{file_schema, with_views},
        data_file::LakeFile,
        schema::Shape,
    },
    read::{
        prune::{FileStatistics, GroupStatistics},
        scan::{
            LakeScan, SortHint,
            filter::Filters,
            inside::{ColumnCondition, Rows, bloom_rules_out, column_conditions, wanted_rows},
            metrics::ScanMetrics,
        },
    },
    table::segment::{Segment, SegmentData},
};

/// A file whose footer is there.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: Arc<LakeFile>,
    pub(super) metadata: ArrowReaderMetadata,
    /// Dead positions.
    pub(super) dead: Arc<RoaringBitmap>,
}

/// A row group to read.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) file: Arc<OpenFile>,
    pub(super) index: usize,
    /// Position of its first row in the file.
    pub(super) first: u32,
    pub(super) rows: u32,
    /// The rows in pages that may hold some that are wanted; none when all do.
    pub(super) wanted: Option<Arc<Rows>>,
}

/// What a partition does next.
#[derive(Debug, Clone)]
pub(super) enum Unit {
    Group(Group),
    /// Rows in memory, and which of them live; none when all do.
    Hot(Arc<RecordBatch>, Option<BooleanBuffer>),
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Vec<Unit>>, Arc<DataFusionError>>>>;

#[derive(Debug, Default)]
struct Queue {
    units: VecDeque<Unit>,
    /// Places in the view's segments.
    files: VecDeque<usize>,
    opening: Vec<Opening>,
}

/// The work of one execution.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) scan: LakeScan,
    pub(super) filters: Filters,
    column_conditions: Arc<[ColumnCondition]>,
    queue: Mutex<Queue>,
}

impl Work {
    pub(super) fn new(scan: &LakeScan) -> Self {
        let mut queue = Queue::default();
        for segment in &scan.view.segments {
            if let SegmentData::Hot(hot) = &segment.data {
                hot_units(segment, &hot.batches, &mut queue.units);
            }
        }
        queue.files.extend(scan.ordered_files());
        Self {
            filters: Filters::new(&scan.filters, &scan.refined),
            column_conditions: column_conditions(&scan.filters, scan.table()).into(),
            scan: scan.clone(),
            queue: Mutex::new(queue),
        }
    }

    /// Takes the next piece; none when all of it is taken.
    pub(super) async fn next(&self, metrics: &ScanMetrics) -> Result<Option<Unit>> {
        loop {
            let opening = {
                let mut queue = self.queue();
                if let Some(unit) = queue.units.pop_front() {
                    return Ok(Some(unit));
                }
                if let Some(file) = queue.files.pop_front() {
                    let Some(segment) = self.scan.view.segments.get(file) else { continue };
                    let opening = self.open(segment, metrics);
                    queue.opening.push(opening.clone());
                    opening
                } else if let Some(opening) = queue.opening.first() {
                    opening.clone()
                } else {
                    return Ok(None);
                }
            };
            let units = opening.clone().await.map_err(DataFusionError::Shared)?;
            let mut queue = self.queue();
            // Several may have waited for it: the first hands its units out.
            if let Some(at) = queue.opening.iter().position(|o| o.ptr_eq(&opening)) {
                drop(queue.opening.swap_remove(at));
                queue.units.extend(units.iter().cloned());
            }
        }
    }

    fn open(&self, segment: &Segment, metrics: &ScanMetrics) -> Opening {
        let Some(rows) = segment.file() else {
            return async { Ok(Arc::default()) }.boxed().shared();
        };
        let shape = Arc::clone(&self.scan.view.shape);
        let pruning = self.filters.pruning(shape.scanned());
        if let Some(pruning) = &pruning {
            let files = [(segment, rows)];
            let statistics = FileStatistics::new(&files, &shape);
            if ruled_out(pruning, &statistics) {
                metrics.files_pruned.add(1);
                return async { Ok(Arc::default()) }.boxed().shared();
            }
        }
        let (file, dead) = (Arc::clone(&rows.file), Arc::clone(&segment.dead));
        let order = self.scan.order;
        let conditions = Arc::clone(&self.column_conditions);
        let groups_pruned = metrics.groups_pruned.clone();
        metrics.files_opened.add(1);
        async move {
            let mut groups = open_file(Arc::clone(&file), dead).await?.groups();
            let before = groups.len();
            if let Some(pruning) = &pruning {
                groups.retain(|group| !group.is_ruled_out(pruning, &shape));
                let mut kept = Vec::with_capacity(groups.len());
                let mut reader = file.reader();
                for mut group in groups {
                    if bloom_rules_out(&group, pruning, &shape, &mut reader).await {
                        continue;
                    }
                    group.wanted = wanted_rows(&group, &conditions, &shape).map(Arc::new);
                    if group.wanted.as_ref().is_none_or(|wanted| !wanted.is_empty()) {
                        kept.push(group);
                    }
                }
                groups = kept;
            }
            groups_pruned.add(before - groups.len());
            if let Some(order) = order {
                order.sort(&mut groups, &shape);
            }
            Ok(Arc::new(groups.into_iter().map(Unit::Group).collect()))
        }
        .map(|units: Result<_>| units.map_err(Arc::new))
        .boxed()
        .shared()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic elsewhere leaves the queue whole: each change of it is one step.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open_file(file: Arc<LakeFile>, dead: Arc<RoaringBitmap>) -> Result<OpenFile> {
    let footer = file.footer().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
    // What a writer says of Arrow types is passed over: the file's own types count.
    let options = ArrowReaderOptions::new()
        .with_skip_arrow_metadata(true)
        .with_schema(with_views(file_schema(&footer)?.as_ref()));
    let metadata = ArrowReaderMetadata::try_new(footer, options)?;
    Ok(OpenFile { file, metadata, dead })
}

/// Living rows in memory.
fn hot_units(segment: &Segment, batches: &[Arc<RecordBatch>], units: &mut VecDeque<Unit>) {
    let mut first = 0_u32;
    for batch in batches {
        let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
        let live = living(&segment.dead, first, end);
        if live.as_ref().is_none_or(BooleanBuffer::has_true) {
            units.push_back(Unit::Hot(Arc::clone(batch), live));
        }
        first = end;
    }
}

/// Which of the rows `first..end` live; none when all do.
pub(super) fn living(dead: &RoaringBitmap, first: u32, end: u32) -> Option<BooleanBuffer> {
    if dead.range_cardinality(first..end) == 0 {
        return None;
    }
    let count = (end - first) as usize;
    let mut live = BooleanBufferBuilder::new(count);
    live.append_n(count, true);
    for row in dead.range(first..end) {
        live.set_bit((row - first) as usize, false);
    }
    Some(live.finish())
}

impl OpenFile {
    /// Row groups with living rows.
    fn groups(self) -> Vec<Group> {
        let file = Arc::new(self);
        let mut first = 0_u32;
        let mut groups = Vec::new();
        for (index, group) in file.metadata.metadata().row_groups().iter().enumerate() {
            let rows = u32::try_from(group.num_rows()).unwrap_or(u32::MAX);
            let end = first.saturating_add(rows);
            if file.dead.range_cardinality(first..end) < u64::from(rows) {
                let file = Arc::clone(&file);
                groups.push(Group { file, index, first, rows, wanted: None });
            }
            first = end;
        }
        groups
    }
}

impl Group {
    pub(super) fn is_ruled_out(&self, pruning: &PruningPredicate, shape: &Shape) -> bool {
        ruled_out(pruning, &self.statistics(shape))
    }

    pub(super) fn statistics<'a>(&'a self, shape: &'a Shape) -> GroupStatistics<'a> {
        GroupStatistics {
            file: &self.file.file,
            metadata: &self.file.metadata,
            group: self.file.metadata.metadata().row_group(self.index),
            shape,
        }
    }
}

/// A predicate that cannot be evaluated rules nothing out.
pub(super) fn ruled_out(pruning: &PruningPredicate, statistics: &impl PruningStatistics) -> bool {
    pruning.prune(statistics).is_ok_and(|kept| !kept.iter().any(|kept| *kept))
}

impl SortHint {
    /// Those that may hold the first rows come first.
    fn sort(&self, groups: &mut [Group], shape: &Shape) {
        let mut keyed: Vec<_> = groups
            .iter()
            .map(|group| {
                let (min, max) = group.statistics(shape).bounds(self.column);
                (if self.descending { max } else { min }, group.clone())
            })
            .collect();
        keyed.sort_by(|(a, _), (b, _)| self.compare(a.as_ref(), b.as_ref()));
        for (place, (_, group)) in groups.iter_mut().zip(keyed) {
            *place = group;
        }
    }
}
