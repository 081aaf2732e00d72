//! `changes(table, from [, to])` in the place of a table: what changed in it between two points of
//! its past, or since one.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider},
    common::ScalarValue,
    error::{DataFusionError, Result},
    logical_expr::Expr,
};
use medlake_contract::TableName;
use medlake_lake::{AsOf, LakeError, ReadView};

use crate::error::{QueryError, SqlCode, SqlProblem};

pub(crate) const CHANGES: &str = "changes";

/// Over one view, which is the end where none is named.
#[derive(Debug)]
pub(crate) struct Changes {
    view: Arc<ReadView>,
    /// Where tables without a schema are looked up.
    schema: String,
}

impl Changes {
    pub(crate) fn new(view: &Arc<ReadView>, schema: &str) -> Arc<Self> {
        Arc::new(Self { view: Arc::clone(view), schema: schema.to_owned() })
    }

    fn table(&self, expr: &Expr) -> Result<TableName> {
        let Expr::Literal(value, _) = expr else { return Err(wrong("the table must be a text")) };
        let Some(Some(text)) = value.try_as_str() else {
            return Err(wrong("the table must be a text"));
        };
        let full =
            if text.contains('.') { text.to_owned() } else { format!("{}.{text}", self.schema) };
        full.parse().map_err(|_: medlake_contract::ContractError| unknown(text))
    }
}

impl TableFunctionImpl for Changes {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (table, from, to) = match args.exprs() {
            [table, from] => (table, from, None),
            [table, from, to] => (table, from, Some(to)),
            other => return Err(wrong(&format!("it takes 2 or 3 arguments, not {}", other.len()))),
        };
        let table = self.table(table)?;
        let from = point("beginning", from)?;
        let to = to.map(|to| point("end", to)).transpose()?;
        self.view.changes(&table, &from, to.as_deref()).map_err(|error| match error {
            LakeError::UnknownTable { table } => unknown(&table.to_string()),
            error => DataFusionError::External(Box::new(error)),
        })
    }
}

/// A point of the past as the lake reads it from text.
fn point(what: &str, expr: &Expr) -> Result<String> {
    let Expr::Literal(value, _) = expr else {
        return Err(wrong(&format!("the {what} must be a constant")));
    };
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let text = match value {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => {
            text.clone()
        }
        ScalarValue::Int64(id) => id.map(|id| id.to_string()),
        value if value.data_type().is_temporal() => match value.cast_to(&utc)? {
            ScalarValue::TimestampMicrosecond(time, _) => {
                time.map(|micros| AsOf::Time(micros).to_string())
            }
            _ => None,
        },
        value if value.is_null() => None,
        _ => return Err(wrong(&format!("the {what} must be a time or a snapshot id"))),
    };
    text.ok_or_else(|| wrong(&format!("the {what} must not be null")))
}

fn unknown(table: &str) -> DataFusionError {
    let message = format!("relation \"{table}\" does not exist");
    outside(SqlProblem::new(SqlCode::UndefinedTable, message))
}

fn wrong(problem: &str) -> DataFusionError {
    let message = format!("wrong arguments of function changes: {problem}");
    outside(SqlProblem::new(SqlCode::InvalidParameterValue, message).hint(
        "write changes('mall.orders', '2026-11-20T10:00:00Z'), or a snapshot id, and a third \
         argument for an end before now",
    ))
}

fn outside(problem: SqlProblem) -> DataFusionError {
    DataFusionError::External(Box::new(QueryError::from(problem)))
}
