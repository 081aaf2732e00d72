//! A table of a view, as DataFusion reads it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, tree_node::TreeNode},
    datasource::source::DataSourceExec,
    error::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
};

use crate::read::{scan::LakeScan, view::TableView};

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
        self.view.shape.scanned()
    }
}

/// Whether the scan can look at each row with it.
fn is_of_rows(filter: &Expr) -> bool {
    let query = |e: &Expr| {
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        ))
    };
    !filter.is_volatile() && !filter.exists(query).unwrap_or(true)
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.arrow())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters rule out files and row groups, and then rows.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| {
                if is_of_rows(filter) {
                    TableProviderFilterPushDown::Exact
                } else {
                    TableProviderFilterPushDown::Unsupported
                }
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = DFSchema::try_from(Arc::clone(self.arrow()))?;
        let filters = filters
            .iter()
            .map(|filter| state.create_physical_expr(filter.clone(), &schema))
            .collect::<Result<_>>()?;
        let every = || (0..self.arrow().fields().len()).collect();
        let projection = projection.cloned().unwrap_or_else(every);
        let partitions = state.config().target_partitions().max(1);
        let view = Arc::clone(&self.view);
        let scan = LakeScan::new(view, &projection, filters, limit, partitions)?;
        if scan.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.arrow().project(&projection)?))));
        }
        Ok(DataSourceExec::from_data_source(scan))
    }
}
