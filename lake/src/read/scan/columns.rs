//! Columns of a file as columns of the table.

use std::sync::Arc;

use arrow::{
    array::new_null_array,
    compute::cast,
    datatypes::SchemaRef,
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};

/// How batches of one file become batches of some columns of the table.
#[derive(Debug)]
pub(super) struct Adapter {
    target: SchemaRef,
    leaves: Vec<usize>,
    /// For each column of the target: its place among those read.
    sources: Vec<Option<usize>>,
}

impl Adapter {
    pub(super) fn new(target: SchemaRef, file: &SchemaRef) -> Self {
        let mut leaves: Vec<usize> =
            target.fields().iter().filter_map(|field| file.index_of(field.name()).ok()).collect();
        leaves.sort_unstable();
        let sources = target
            .fields()
            .iter()
            .map(|field| {
                let leaf = file.index_of(field.name()).ok()?;
                leaves.iter().position(|l| *l == leaf)
            })
            .collect();
        Self { target, leaves, sources }
    }

    pub(super) fn leaves(&self) -> &[usize] {
        &self.leaves
    }

    pub(super) fn adapt(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = self
            .sources
            .iter()
            .zip(self.target.fields())
            .map(|(source, field)| match source {
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
                Some(at) => {
                    let column = batch.column(*at);
                    if column.data_type() == field.data_type() {
                        Ok(Arc::clone(column))
                    } else {
                        cast(column, field.data_type())
                    }
                }
            })
            .collect::<Result<_, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.target), columns, &rows)
    }
}
