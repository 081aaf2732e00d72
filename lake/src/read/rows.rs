//! Rows of a table for whoever wants them whole, without a query engine of its own.

use std::sync::Arc;

use arrow::{compute::cast, datatypes::SchemaRef, error::ArrowError, record_batch::RecordBatch};
use datafusion::{error::DataFusionError, execution::context::SessionContext};
use medlake_contract::TableName;

use crate::{
    error::LakeError,
    read::{provider::LakeTable, view::ReadView},
};

impl ReadView {
    /// All rows of a table, in no order, in the Arrow types of its schema. They are in memory
    /// together: for tables that are known to be small.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`], [`LakeError::LeftOut`], and what is damaged.
    pub async fn rows(&self, table: &TableName) -> Result<RecordBatch, LakeError> {
        let picture = self.picture(table)?;
        let wrong = |source: ArrowError| LakeError::Arrow {
            doing: "read the rows",
            table: table.clone(),
            source,
        };
        let failed = |error: DataFusionError| wrong(error.into());
        let provider = Arc::new(LakeTable::new(Arc::clone(picture)));
        let rows = SessionContext::new().read_table(provider).map_err(failed)?;
        let batches = rows.collect().await.map_err(failed)?;
        let schema = picture.schema.arrow_nullable();
        let batches = batches.iter().map(|batch| as_declared(batch, schema));
        let batches: Vec<RecordBatch> = batches.collect::<Result<_, _>>().map_err(wrong)?;
        arrow::compute::concat_batches(schema, &batches).map_err(wrong)
    }
}

/// What a scan gave, in the types a table is declared with: a scan reads text and bytes as views.
pub(crate) fn as_declared(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(c, f)| cast(c, f.data_type())).collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}
