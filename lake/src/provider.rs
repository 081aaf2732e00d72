//! A table of a view, as DataFusion reads it.

use std::sync::Arc;

use arrow::{
    array::BooleanArray, compute::filter_record_batch, datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::memory::MemorySourceConfig,
    error::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use roaring::RoaringBitmap;

use crate::{segment::SegmentData, view::TableView};

/// One table of one view.
#[derive(Debug)]
pub(crate) struct LakeTable {
    view: Arc<TableView>,
}

impl LakeTable {
    pub(crate) fn new(view: Arc<TableView>) -> Self {
        Self { view }
    }

    /// The living rows in memory, projected.
    fn hot_batches(&self, projection: Option<&Vec<usize>>) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for segment in &self.view.segments {
            let SegmentData::Hot(hot) = &segment.data;
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
}

/// The rows of a batch that are not dead; `first..end` are its row numbers.
pub(crate) fn without_dead(
    batch: RecordBatch,
    dead: &RoaringBitmap,
    first: u32,
    end: u32,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    if dead.range_cardinality(first..end) == 0 {
        return Ok(batch);
    }
    let mut live = vec![true; batch.num_rows()];
    for row in dead.range(first..end) {
        live[(row - first) as usize] = false;
    }
    filter_record_batch(&batch, &BooleanArray::from(live))
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.view.schema.arrow())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batches = self.hot_batches(projection)?;
        let schema = match projection {
            Some(columns) => Arc::new(self.schema().project(columns)?),
            None => self.schema(),
        };
        let source = MemorySourceConfig::try_new(&[batches], schema, None)?.with_limit(limit);
        Ok(datafusion::datasource::source::DataSourceExec::from_data_source(source))
    }
}
