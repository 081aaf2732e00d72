//! From row groups to batches of rows that live and meet the filters.

use std::{pin::Pin, sync::Arc};

use arrow::{
    array::BooleanArray,
    buffer::BooleanBuffer,
    compute::{BatchCoalescer, cast},
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::error::{DataFusionError, Result};
use futures::{
    FutureExt,
    future::{BoxFuture, MaybeDone, maybe_done},
    poll,
};
use parquet::{
    DecodeResult,
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReader, RowFilter},
        async_reader::AsyncFileReader as _,
        push_decoder::ParquetPushDecoderBuilder,
    },
};

use crate::{
    format::{adapt::Adapter, schema::Shape},
    read::scan::{
        filter::{Bound, Condition, expected_share, meet},
        inside::selection,
        metrics::ScanMetrics,
        work::{Group, OpenFile, Unit, Work, living},
    },
};

/// When fewer rows than this share are expected to meet the filters, their columns are decoded first
/// and the others only where rows are left. Above it, decoding twice costs more than it saves.
const LATE: f64 = 0.1;

/// Rows of one unit, as far as they are decoded.
struct Running {
    batches: Batches,
    /// Still to be looked at, over the columns of the batches.
    conditions: Vec<Bound>,
    /// Places of the scan's columns in the batches.
    output: Vec<usize>,
}

enum Batches {
    Decoded {
        reader: ParquetRecordBatchReader,
        adapter: Adapter,
        /// All, when the reader leaves the others out.
        live: Living,
    },
    Hot(Option<(RecordBatch, Option<BooleanArray>)>),
}

/// Which rows of a group live, batch by batch in their order.
struct Living {
    /// None when all do.
    rows: Option<BooleanBuffer>,
    position: usize,
}

impl Living {
    fn new(rows: Option<BooleanBuffer>) -> Self {
        Self { rows, position: 0 }
    }

    /// Of the next so many; none when all do.
    fn next(&mut self, count: usize) -> Option<BooleanArray> {
        let rows = self.rows.as_ref()?.slice(self.position, count);
        self.position += count;
        rows.has_false().then(|| BooleanArray::new(rows, None))
    }
}

type Next = Pin<Box<MaybeDone<BoxFuture<'static, Result<Option<Running>>>>>>;

/// One partition of a scan while it runs.
pub(super) struct Partition {
    work: Arc<Work>,
    metrics: ScanMetrics,
    batch_size: usize,
    current: Option<Running>,
    /// Read while the current one is decoded.
    next: Next,
    ready: BatchCoalescer,
    ended: bool,
    /// Rows this partition may still give.
    left: Option<usize>,
}

impl Partition {
    pub(super) fn new(work: Arc<Work>, metrics: ScanMetrics, batch_size: usize) -> Self {
        // Batches at least half full go on as they are; smaller ones are joined.
        let ready = BatchCoalescer::new(Arc::clone(&work.scan.schema), batch_size)
            .with_biggest_coalesce_batch_size(Some(batch_size / 2));
        let next = start(&work, &metrics, batch_size);
        let left = work.scan.limit;
        Self { work, metrics, batch_size, current: None, next, ready, ended: false, left }
    }

    /// The next batch, and the partition for the one after it.
    pub(super) async fn step(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            if let Some(batch) = self.ready.next_completed_batch() {
                return Ok(Some((self.give(batch), self)));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(current) = &mut self.current else {
                self.next.as_mut().await;
                match self.next.as_mut().take_output().transpose()?.flatten() {
                    None => {
                        self.ended = true;
                        self.ready.finish_buffered_batch()?;
                    }
                    Some(running) => {
                        self.current = Some(running);
                        self.next = start(&self.work, &self.metrics, self.batch_size);
                    }
                }
                continue;
            };
            // A limit is often reached with the first rows: nothing is read ahead for it.
            if self.left.is_none() {
                let _ = poll!(self.next.as_mut());
            }
            let timer = self.metrics.baseline.elapsed_compute().timer();
            match current.next()? {
                None => self.current = None,
                // Without columns there is nothing to join, only to count.
                Some((batch, rows)) if batch.num_columns() == 0 => {
                    let count = rows.map_or(batch.num_rows(), |rows| rows.true_count());
                    drop(timer);
                    if count > 0 {
                        return Ok(Some((self.give(count_of(&batch, count)?), self)));
                    }
                    continue;
                }
                Some((batch, None)) => self.ready.push_batch(batch)?,
                Some((batch, Some(rows))) => self.ready.push_batch_with_filter(batch, &rows)?,
            }
            drop(timer);
        }
    }

    fn give(&mut self, batch: RecordBatch) -> RecordBatch {
        let batch = match &mut self.left {
            None => batch,
            Some(left) => {
                let count = batch.num_rows().min(*left);
                *left -= count;
                batch.slice(0, count)
            }
        };
        self.metrics.baseline.record_output(batch.num_rows());
        batch
    }
}

/// So many rows without columns.
fn count_of(like: &RecordBatch, rows: usize) -> Result<RecordBatch, ArrowError> {
    let rows = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(like.schema(), Vec::new(), &rows)
}

fn start(work: &Arc<Work>, metrics: &ScanMetrics, batch_size: usize) -> Next {
    let (work, metrics) = (Arc::clone(work), metrics.clone());
    let next = async move {
        while let Some(unit) = work.next(&metrics).await? {
            match unit {
                Unit::Hot(batch, live) => return hot(&work, &batch, live).map(Some),
                Unit::Group(group) => {
                    if let Some(running) = read(&work, group, &metrics, batch_size).await? {
                        return Ok(Some(running));
                    }
                }
            }
        }
        Ok(None)
    };
    Box::pin(maybe_done(next.boxed()))
}

/// The columns a unit needs, in the table's order.
struct Needed {
    conditions: Vec<Arc<Condition>>,
    /// Places in the table's columns, ascending.
    for_conditions: Vec<usize>,
    all: Vec<usize>,
}

impl Needed {
    fn now(work: &Work) -> Self {
        let conditions = work.filters.useful();
        let sorted = |mut places: Vec<usize>| {
            places.sort_unstable();
            places.dedup();
            places
        };
        let for_conditions =
            sorted(conditions.iter().flat_map(|c| c.columns().collect::<Vec<_>>()).collect());
        let all = sorted([&for_conditions[..], &work.scan.projection].concat());
        Self { conditions, for_conditions, all }
    }

    /// Whether columns the filters do not need are decoded after them.
    fn late(&self) -> bool {
        !self.conditions.is_empty()
            && self.all.len() > self.for_conditions.len()
            && expected_share(&self.conditions) < LATE
    }
}

fn project(work: &Work, places: &[usize]) -> Result<SchemaRef, ArrowError> {
    let table = work.scan.table();
    // A table's metadata is of no use to a query, and the columns must be those promised.
    Ok(Arc::new(Schema::new(table.project(places)?.fields)))
}

/// Places of the scan's columns among those in `places`.
fn output(work: &Work, places: &[usize]) -> Vec<usize> {
    let place = |wanted: &usize| places.iter().position(|place| place == wanted);
    work.scan.projection.iter().filter_map(place).collect()
}

fn bind(conditions: &[Arc<Condition>], columns: &SchemaRef) -> Result<Vec<Bound>> {
    conditions.iter().map(|condition| condition.over(columns)).collect()
}

fn hot(work: &Work, batch: &RecordBatch, live: Option<BooleanBuffer>) -> Result<Running> {
    let needed = Needed::now(work);
    let columns = project(work, &needed.all)?;
    let batch = in_views(&batch.project(&needed.all)?, &columns)?;
    Ok(Running {
        batches: Batches::Hot(Some((batch, live.map(|live| BooleanArray::new(live, None))))),
        conditions: bind(&needed.conditions, &columns)?,
        output: output(work, &needed.all),
    })
}

/// The same rows with texts and bytes as views, which point into the batch's own.
fn in_views(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let arrays = batch.columns().iter().zip(columns.fields());
    let arrays = arrays.map(|(array, field)| cast(array, field.data_type()));
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays.collect::<Result<_, _>>()?, &rows)
}

fn adapter(shape: &Shape, places: &[usize], file: &OpenFile) -> Result<Adapter> {
    Adapter::new(shape, shape.scanned(), places, file.metadata.schema(), &file.file.constants)
        .map_err(|e| DataFusionError::External(Box::new(e)))
}

/// Reads a row group; none when no row of it can be wanted.
async fn read(
    work: &Work,
    group: Group,
    metrics: &ScanMetrics,
    batch_size: usize,
) -> Result<Option<Running>> {
    let shape = &work.scan.view.shape;
    if !work.scan.refined.is_empty()
        && let Some(pruning) = work.filters.pruning(shape.scanned())
        && group.is_ruled_out(&pruning, shape)
    {
        metrics.groups_pruned.add(1);
        return Ok(None);
    }
    let live = living(&group.file.dead, group.first, group.first.saturating_add(group.rows));
    let needed = Needed::now(work);
    let late = needed.late();
    let places: &[usize] = if late { &work.scan.projection } else { &needed.all };
    let file = &group.file;
    let columns = project(work, places)?;
    let adapter = adapter(shape, places, file)?;
    let parquet = group.file.metadata.parquet_schema();
    let mask = |adapter: &Adapter| ProjectionMask::leaves(parquet, adapter.leaves().to_vec());
    let mut builder = ParquetPushDecoderBuilder::new_with_metadata(group.file.metadata.clone())
        .with_row_groups(vec![group.index])
        .with_projection(mask(&adapter))
        .with_batch_size(batch_size);
    if late {
        let columns = project(work, &needed.for_conditions)?;
        let adapter = self::adapter(shape, &needed.for_conditions, file)?;
        let conditions = bind(&needed.conditions, &columns)?;
        let leaves = mask(&adapter);
        // Unless only some pages are read, the dead rows are left out here.
        let mut live = Living::new(live.clone().filter(|_| group.wanted.is_none()));
        let evaluate = move |batch: RecordBatch| {
            let batch = adapter.adapt(&batch)?;
            let rows = meet(&conditions, &batch, live.next(batch.num_rows()))
                .map_err(|e| ArrowError::ExternalError(Box::new(e)))?;
            Ok(rows.unwrap_or_else(|| {
                BooleanArray::new(BooleanBuffer::new_set(batch.num_rows()), None)
            }))
        };
        let predicate = ArrowPredicateFn::new(leaves, evaluate);
        builder = builder.with_row_filter(RowFilter::new(vec![Box::new(predicate)]));
        metrics.groups_late.add(1);
    }
    // Where only some pages are read, the reader leaves out the dead rows. Else they are taken out
    // with those that do not meet the filters.
    if let Some(wanted) = &group.wanted {
        builder = builder.with_row_selection(selection(wanted, live.as_ref(), group.rows as usize));
    }
    let live = Living::new(live.filter(|_| group.wanted.is_none() && !late));
    metrics.groups_read.add(1);
    let mut decoder = builder.build()?;
    let mut reader = group.file.file.reader();
    let reader = loop {
        match decoder.try_next_reader()? {
            DecodeResult::NeedsData(ranges) => {
                let bytes = reader.get_byte_ranges(ranges.clone()).await?;
                metrics.bytes_scanned.add(bytes.iter().map(bytes::Bytes::len).sum());
                decoder.push_ranges(ranges, bytes)?;
            }
            DecodeResult::Data(reader) => break reader,
            DecodeResult::Finished => return Ok(None),
        }
    };
    let conditions = if late { Vec::new() } else { bind(&needed.conditions, &columns)? };
    Ok(Some(Running {
        batches: Batches::Decoded { reader, adapter, live },
        conditions,
        output: output(work, places),
    }))
}

impl Running {
    /// Rows with the scan's columns, and which of them count; none when all do.
    fn next(&mut self) -> Result<Option<(RecordBatch, Option<BooleanArray>)>> {
        let (batch, live) = match &mut self.batches {
            Batches::Hot(batch) => match batch.take() {
                None => return Ok(None),
                Some(hot) => hot,
            },
            Batches::Decoded { reader, adapter, live } => {
                let Some(batch) = reader.next().transpose()? else { return Ok(None) };
                let live = live.next(batch.num_rows());
                (adapter.adapt(&batch)?, live)
            }
        };
        let rows = meet(&self.conditions, &batch, live)?;
        Ok(Some((batch.project(&self.output)?, rows)))
    }
}
