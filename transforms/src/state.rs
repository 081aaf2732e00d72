//! The state of each mart, kept as a table beside them.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::arrow::{
    array::{
        ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array,
    },
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use medlake_contract::{
    ChangeBatch, Column, ColumnType, ContractError, Op, TableName, TableSchema,
};

use crate::error::MartError;

/// Whether a mart is what its inputs say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is.
    Built,
    /// A table it is made of is not there yet: the mart is as it was before, and empty at first.
    Waiting,
    /// A query or a data test failed: the mart is as it was before, and catches up when the reason
    /// is gone.
    Failed,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// What `system.model_state` says about one mart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateRow {
    pub(crate) definition_hash: String,
    pub(crate) status: Status,
    pub(crate) reason: Option<String>,
    /// Rows of the last whole build.
    pub(crate) built_rows: i64,
    /// Commit time of the newest source transaction contained then.
    pub(crate) built_at: Option<i64>,
}

/// `system.model_state(model, definition_hash, status, reason, built_rows, built_at)`.
pub(crate) fn schema() -> Result<TableSchema, ContractError> {
    TableSchema::new(
        "system.model_state".parse()?,
        vec![
            Column::required("model", ColumnType::Utf8),
            Column::required("definition_hash", ColumnType::Utf8),
            Column::required("status", ColumnType::Utf8),
            Column::nullable("reason", ColumnType::Utf8),
            Column::required("built_rows", ColumnType::Int64),
            Column::nullable("built_at", ColumnType::TimestampMicros),
        ],
        &["model"],
    )
}

/// The stored hash and status of each model. Reason and time are not needed again.
pub(crate) fn read(
    schema: &TableSchema,
    batches: &[RecordBatch],
) -> Result<BTreeMap<String, StateRow>, MartError> {
    let rows = crate::difference::conform(schema, batches)?;
    let text = |at: usize| rows.column(at).as_string::<i32>();
    let built_rows = rows.column(4).as_primitive::<Int64Type>();
    Ok((0..rows.num_rows())
        .map(|row| {
            let known = [Status::Built, Status::Waiting, Status::Failed];
            let stored = known.into_iter().find(|known| known.as_str() == text(2).value(row));
            let state = StateRow {
                definition_hash: text(1).value(row).to_owned(),
                status: stored.unwrap_or(Status::Failed),
                reason: None,
                built_rows: built_rows.value(row),
                built_at: None,
            };
            (text(0).value(row).to_owned(), state)
        })
        .collect())
}

/// State rows that are new or other than before. They replace what is stored under their key, so
/// the image before need not be the stored row: it is left out, and an insert replaces.
pub(crate) fn changes(
    schema: &Arc<TableSchema>,
    rows: &[(TableName, StateRow)],
) -> Result<ChangeBatch, ContractError> {
    let text = |value: &dyn Fn(&(TableName, StateRow)) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringArray>())
    };
    let built_rows = Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.built_rows));
    let built_at: TimestampMicrosecondArray = rows.iter().map(|(_, row)| row.built_at).collect();
    let columns: Vec<ArrayRef> = vec![
        text(&|(name, _)| Some(name.to_string())),
        text(&|(_, row)| Some(row.definition_hash.clone())),
        text(&|(_, row)| Some(row.status.as_str().to_owned())),
        text(&|(_, row)| row.reason.clone()),
        Arc::new(built_rows),
        Arc::new(built_at.with_timezone("UTC")),
    ];
    let wrong = |source: datafusion::arrow::error::ArrowError| ContractError::Change {
        table: schema.name().clone(),
        problem: source.to_string(),
    };
    let after =
        RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns).map_err(wrong)?;
    let nulls =
        schema.columns().iter().map(|c| new_null_array(&c.ty.arrow(), rows.len())).collect();
    let before = RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), nulls).map_err(wrong)?;
    ChangeBatch::new(Arc::clone(schema), vec![Op::Insert; rows.len()], before, after)
}
