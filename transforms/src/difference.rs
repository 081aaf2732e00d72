//! What changed between the rows a mart has and the rows it should have.

use std::{collections::HashMap, sync::Arc};

use datafusion::arrow::{
    array::{ArrayRef, UInt32Array},
    compute::{cast, concat_batches, take},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use medlake_contract::{ChangeBatch, Op, TableSchema};

use crate::error::MartError;

/// Rows with the columns and types of the table, whatever string or integer width they came in.
pub(crate) fn conform(
    table: &TableSchema,
    batches: &[RecordBatch],
) -> Result<RecordBatch, MartError> {
    let schema = table.arrow_nullable();
    let conformed = batches
        .iter()
        .map(|batch| {
            let columns = schema
                .fields()
                .iter()
                .zip(batch.columns())
                .map(|(field, column)| cast(column, field.data_type()))
                .collect::<Result<Vec<_>, _>>()?;
            RecordBatch::try_new(Arc::clone(schema), columns)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(schema, &conformed)?)
}

/// The changes that turn `old` into `new`, both conforming to `table` and with at most one row a
/// key; `None` when they hold the same rows. Ordered: deletes by old row, then the new rows in order.
pub(crate) fn changes(
    table: &Arc<TableSchema>,
    old: &RecordBatch,
    new: &RecordBatch,
) -> Result<Option<ChangeBatch>, MartError> {
    let (old_keys, new_keys) =
        (comparable(old, table.key_indices())?, comparable(new, table.key_indices())?);
    let all: Vec<usize> = (0..table.columns().len()).collect();
    let (old_rows, new_rows) = (comparable(old, &all)?, comparable(new, &all)?);

    let mut place: HashMap<&[u8], (u32, usize)> = HashMap::with_capacity(old.num_rows());
    for (number, (row, key)) in (0_u32..).zip(old_keys.iter().enumerate()) {
        place.insert(key.data(), (number, row));
    }
    let mut ops = Vec::new();
    let (mut before, mut after): (Vec<Option<u32>>, Vec<Option<u32>>) = (Vec::new(), Vec::new());
    for (number, (row, key)) in (0_u32..).zip(new_keys.iter().enumerate()) {
        match place.remove(key.data()) {
            Some((_, old_row)) if old_rows.row(old_row) == new_rows.row(row) => {}
            Some((old_number, _)) => {
                ops.push(Op::Update);
                before.push(Some(old_number));
                after.push(Some(number));
            }
            None => {
                ops.push(Op::Insert);
                before.push(None);
                after.push(Some(number));
            }
        }
    }
    let mut gone: Vec<u32> = place.into_values().map(|(number, _)| number).collect();
    gone.sort_unstable();
    for number in gone {
        ops.push(Op::Delete);
        before.push(Some(number));
        after.push(None);
    }
    if ops.is_empty() {
        return Ok(None);
    }
    let schema = table.arrow_nullable();
    let (before, after) = (images(schema, old, before)?, images(schema, new, after)?);
    Ok(Some(ChangeBatch::new(Arc::clone(table), ops, before, after)?))
}

/// Whether two rows of the batch have the same values in these columns.
pub(crate) fn has_duplicates(rows: &RecordBatch, columns: &[usize]) -> Result<bool, MartError> {
    let keys = comparable(rows, columns)?;
    let mut seen = std::collections::HashSet::with_capacity(rows.num_rows());
    Ok(!keys.iter().all(|key| seen.insert(key.data().to_vec())))
}

/// Whether two results hold the same rows, in any order. The second is cast to the first's types.
pub(crate) fn same_rows(left: &[RecordBatch], right: &[RecordBatch]) -> Result<bool, MartError> {
    let sorted = |batches: &[RecordBatch], types: Option<&SchemaRef>| {
        let mut rows = Vec::new();
        for batch in batches {
            let batch = match types {
                Some(schema) => {
                    let columns = schema
                        .fields()
                        .iter()
                        .zip(batch.columns())
                        .map(|(field, column)| cast(column, field.data_type()))
                        .collect::<Result<Vec<ArrayRef>, _>>()?;
                    RecordBatch::try_from_iter(
                        schema.fields().iter().map(|f| f.name().clone()).zip(columns),
                    )?
                }
                None => batch.clone(),
            };
            let all: Vec<usize> = (0..batch.num_columns()).collect();
            rows.extend(comparable(&batch, &all)?.iter().map(|row| row.data().to_vec()));
        }
        rows.sort_unstable();
        Ok::<_, MartError>(rows)
    };
    let types = left.first().map(RecordBatch::schema);
    Ok(sorted(left, None)? == sorted(right, types.as_ref())?)
}

fn comparable(batch: &RecordBatch, columns: &[usize]) -> Result<Rows, MartError> {
    let arrays: Vec<ArrayRef> = columns.iter().map(|c| Arc::clone(batch.column(*c))).collect();
    let fields = arrays.iter().map(|a| SortField::new(a.data_type().clone())).collect();
    Ok(RowConverter::new(fields)?.convert_columns(&arrays)?)
}

fn images(
    schema: &SchemaRef,
    rows: &RecordBatch,
    at: Vec<Option<u32>>,
) -> Result<RecordBatch, MartError> {
    let at = UInt32Array::from(at);
    let columns =
        rows.columns().iter().map(|c| take(c, &at, None)).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;
    use medlake_contract::{Column, ColumnType};

    use super::*;

    fn table() -> Arc<TableSchema> {
        let columns = vec![
            Column::required("id", ColumnType::Int64),
            Column::nullable("n", ColumnType::Int64),
        ];
        Arc::new(TableSchema::new("marts.t".parse().unwrap(), columns, &["id"]).unwrap())
    }

    fn rows(values: &[(i64, Option<i64>)]) -> RecordBatch {
        let ids = Int64Array::from_iter_values(values.iter().map(|v| v.0));
        let ns: Int64Array = values.iter().map(|v| v.1).collect();
        RecordBatch::try_new(
            Arc::clone(table().arrow_nullable()),
            vec![Arc::new(ids), Arc::new(ns)],
        )
        .unwrap()
    }

    #[test]
    fn only_differences_come_out() {
        let table = table();
        let old = rows(&[(1, Some(1)), (2, None), (3, Some(3)), (4, Some(4))]);
        let new = rows(&[(5, None), (3, Some(3)), (2, Some(2)), (1, Some(1))]);
        let changed = changes(&table, &old, &new).unwrap().unwrap();
        assert_eq!(changed.ops(), [Op::Insert, Op::Update, Op::Delete]);
        let ids = |batch: &RecordBatch| -> Vec<Option<i64>> {
            use datafusion::arrow::{array::AsArray, datatypes::Int64Type};
            batch.column(0).as_primitive::<Int64Type>().iter().collect()
        };
        assert_eq!(ids(changed.before()), [None, Some(2), Some(4)]);
        assert_eq!(ids(changed.after()), [Some(5), Some(2), None]);
        assert!(changes(&table, &old, &old).unwrap().is_none());
    }

    #[test]
    fn duplicate_keys_and_equal_sets_are_seen() {
        assert!(has_duplicates(&rows(&[(1, None), (1, Some(1))]), &[0]).unwrap());
        assert!(!has_duplicates(&rows(&[(1, None), (2, None)]), &[0]).unwrap());
        let left = [rows(&[(1, None), (2, Some(2))])];
        assert!(same_rows(&left, &[rows(&[(2, Some(2))]), rows(&[(1, None)])]).unwrap());
        assert!(!same_rows(&left, &[rows(&[(2, Some(2))])]).unwrap());
        assert!(same_rows(&[], &[]).unwrap());
    }
}
