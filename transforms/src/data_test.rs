//! Data tests, on new rows before they are handed out.

use std::sync::Arc;

use datafusion::arrow::{
    array::{Array, AsArray, BooleanArray},
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use medlake_contract::TableSchema;

use crate::{
    difference::{has_duplicates, same_rows},
    engine::Session,
    error::MartError,
    model::{DataTest, Mart},
    touched::Scope,
};

/// Runs every test of the mart over `rows`, which are `new_rows` in `session`.
///
/// # Errors
/// [`MartError::Tests`] with every failure, [`MartError::DuplicateKey`], or why a test could not run.
pub(crate) async fn check(
    mart: &Mart,
    session: &Session,
    rows: &RecordBatch,
    scope: &Scope,
) -> Result<(), MartError> {
    let mut failures = nulls(&mart.schema, rows, None);
    if has_duplicates(rows, mart.schema.key_indices())? {
        return Err(MartError::DuplicateKey);
    }
    for test in &mart.tests {
        match test {
            DataTest::NotNull { columns } => {
                failures.extend(nulls(&mart.schema, rows, Some(columns)))
            }
            DataTest::Unique { columns } => {
                if has_duplicates(rows, columns)? {
                    let names: Vec<&str> =
                        columns.iter().map(|c| mart.schema.columns()[*c].name.as_str()).collect();
                    failures.push(format!("({}) is not unique", names.join(", ")));
                }
            }
            DataTest::Expression { text, check } => {
                let holds = check.evaluate(rows)?.into_array(rows.num_rows())?;
                let wrong = falses(holds.as_boolean());
                if wrong > 0 {
                    failures.push(format!(
                        "expression \"{text}\" is false for {wrong} of {} rows",
                        rows.num_rows()
                    ));
                }
            }
            DataTest::Relationship { text, orphans } => {
                let counted = session.rows(orphans, &Scope::Everything).await?;
                let wrong = counted
                    .first()
                    .map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0));
                if wrong > 0 {
                    failures.push(format!("{text}: {wrong} rows have no partner"));
                }
            }
            DataTest::Reconciliation { name, left, right } => {
                let left = session.rows(left, &Scope::Everything).await?;
                let right = session.rows(right, scope).await?;
                if !same_rows(&left, &right)? {
                    failures.push(format!("reconciliation \"{name}\": the two sides differ"));
                }
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(MartError::Tests { failures }) }
}

/// Nulls in `columns`, or in all required ones.
fn nulls(
    table: &Arc<TableSchema>,
    rows: &RecordBatch,
    columns: Option<&Vec<usize>>,
) -> Vec<String> {
    table
        .columns()
        .iter()
        .zip(rows.columns())
        .enumerate()
        .filter(|(at, (column, _))| columns.map_or(!column.nullable, |c| c.contains(at)))
        .filter(|(_, (_, values))| values.null_count() > 0)
        .map(|(_, (column, values))| {
            format!("column \"{}\" is null in {} rows", column.name, values.null_count())
        })
        .collect()
}

/// A check that is null is not known to be wrong, as in SQL.
fn falses(holds: &BooleanArray) -> usize {
    holds.iter().filter(|held| *held == Some(false)).count()
}
