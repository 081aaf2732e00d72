//! A table of a view, as DataFusion reads it.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, config::TableParquetOptions},
    datasource::{
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        object_store::ObjectStoreUrl,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetSource,
            parquet::{ParquetAccessPlan, RowGroupAccess},
        },
        source::DataSourceExec,
    },
    error::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_expr::PhysicalExpr,
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{ExecutionPlan, empty::EmptyExec, union::UnionExec},
};
use parquet::{
    arrow::arrow_reader::{RowSelection, RowSelector},
    file::metadata::ParquetMetaData,
};
use roaring::RoaringBitmap;

use crate::{
    format::data_file::LakeFile,
    read::{
        prune::{FileStatistics, statistics},
        reader::{ScannedFile, ViewReaders},
        view::TableView,
    },
    table::segment::{FileRows, Segment, SegmentData, without_dead},
};

/// One table of one view.
#[derive(Debug)]
pub(crate) struct LakeTable {
    view: Arc<TableView>,
}

impl LakeTable {
    pub(crate) fn new(view: Arc<TableView>) -> Self {
        Self { view }
    }

    fn arrow(&self) -> &SchemaRef {
        self.view.schema.arrow()
    }

    /// The living rows in memory, projected.
    fn hot_batches(&self, projection: Option<&Vec<usize>>) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for segment in &self.view.segments {
            let SegmentData::Hot(hot) = &segment.data else { continue };
            let mut first = 0_u32;
            for batch in &hot.batches {
                let batch = match projection {
                    Some(columns) => batch.project(columns)?,
                    None => batch.as_ref().clone(),
                };
                let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
                let batch = without_dead(batch, &segment.dead, first, end)?;
                if batch.num_rows() > 0 {
                    batches.push(batch);
                }
                first = end;
            }
        }
        Ok(batches)
    }

    /// The files a predicate cannot rule out.
    fn files(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<(&Segment, &FileRows)> {
        let all: Vec<(&Segment, &FileRows)> = self
            .view
            .segments
            .iter()
            .filter_map(|s| Some((s, s.file()?)))
            .filter(|(s, _)| s.live_rows() > 0)
            .collect();
        // A predicate that cannot be used for pruning, and one that fails, rule nothing out.
        let kept = predicate
            .and_then(|p| {
                PruningPredicateBuilder::new()
                    .with_file_schema(Arc::clone(self.arrow()))
                    .build(Arc::clone(p))
            })
            .and_then(|p| p.prune(&FileStatistics { files: &all, schema: self.arrow() }).ok());
        match kept {
            None => all,
            Some(kept) => all.into_iter().zip(kept).filter(|(_, k)| *k).map(|(f, _)| f).collect(),
        }
    }

    fn file_scan(
        &self,
        state: &dyn Session,
        files: &[(&Segment, &FileRows)],
        projection: Option<&Vec<usize>>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let readers = ViewReaders { _view: Arc::clone(&self.view) };
        let mut source = ParquetSource::new(Arc::clone(self.arrow()))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(readers));
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        // Files go to the least filled partition; DataFusion splits large ones further by itself.
        let count = state.config().target_partitions().clamp(1, files.len().max(1));
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); count];
        for (segment, rows) in files {
            let at = (0..count).min_by_key(|&g| groups[g].0).unwrap_or(0);
            groups[at].0 += rows.file.bytes;
            groups[at].1.push(partitioned_file(segment, &rows.file));
        }
        let groups = groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect();
        let config =
            FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
                .with_file_groups(groups)
                .with_statistics(statistics(files, self.arrow()))
                .with_projection_indices(projection.cloned())?
                .with_limit(limit)
                .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// A file with its dead rows as a selection; row groups without dead rows carry none.
fn partitioned_file(segment: &Segment, file: &Arc<LakeFile>) -> PartitionedFile {
    let scanned = PartitionedFile::new(file.path.display().to_string(), file.bytes)
        .with_extension(ScannedFile(Arc::clone(file)));
    if segment.dead.is_empty() {
        return scanned;
    }
    scanned.with_extension(access_plan(&file.footer, &segment.dead))
}

fn access_plan(footer: &ParquetMetaData, dead: &RoaringBitmap) -> ParquetAccessPlan {
    let mut first = 0_u32;
    let mut groups = Vec::with_capacity(footer.num_row_groups());
    for group in footer.row_groups() {
        let rows = u32::try_from(group.num_rows()).unwrap_or(u32::MAX);
        let end = first.saturating_add(rows);
        let count = dead.range_cardinality(first..end);
        groups.push(if count == 0 {
            RowGroupAccess::Scan
        } else if count == u64::from(rows) {
            RowGroupAccess::Skip
        } else {
            RowGroupAccess::Selection(selection(dead, first, end))
        });
        first = end;
    }
    ParquetAccessPlan::new(groups)
}

/// The rows of `first..end` that are not dead.
fn selection(dead: &RoaringBitmap, first: u32, end: u32) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = first;
    for row in dead.range(first..end) {
        if row > next {
            selectors.push(RowSelector::select((row - next) as usize));
        }
        match selectors.last_mut() {
            Some(last) if last.skip => last.row_count += 1,
            _ => selectors.push(RowSelector::skip(1)),
        }
        next = row + 1;
    }
    if next < end {
        selectors.push(RowSelector::select((end - next) as usize));
    }
    RowSelection::from(selectors)
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.arrow())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters rule out files, row groups and pages; the rows left are filtered again above.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = match conjunction(filters.to_vec()) {
            None => None,
            Some(filter) => {
                let schema = DFSchema::try_from(Arc::clone(self.arrow()))?;
                Some(state.create_physical_expr(filter, &schema)?)
            }
        };
        let schema = match projection {
            Some(columns) => Arc::new(self.arrow().project(columns)?),
            None => Arc::clone(self.arrow()),
        };
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        let files = self.files(predicate.as_ref());
        if !files.is_empty() {
            inputs.push(self.file_scan(state, &files, projection, predicate, limit)?);
        }
        let batches = self.hot_batches(projection)?;
        if !batches.is_empty() {
            let hot = MemorySourceConfig::try_new(&[batches], Arc::clone(&schema), None)?
                .with_limit(limit);
            inputs.push(DataSourceExec::from_data_source(hot));
        }
        match inputs.len() {
            0 => Ok(Arc::new(EmptyExec::new(schema))),
            1 => Ok(inputs.swap_remove(0)),
            _ => UnionExec::try_new(inputs),
        }
    }
}
