//! Order lines as changes: what the subjects about writing write.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    record_batch::RecordBatch,
};
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, Op, TableSchema};
use rand::{RngExt, rngs::StdRng};

/// Ten columns, as an order line has them.
pub(crate) fn lines(table: &str) -> Arc<TableSchema> {
    let columns = vec![
        Column::required("line_id", ColumnType::Int64),
        Column::required("order_id", ColumnType::Int64),
        Column::required("product_id", ColumnType::Int64),
        Column::required("quantity", ColumnType::Int32),
        Column::required("amount_fen", ColumnType::Int64),
        Column::nullable("ratio", ColumnType::Float64),
        Column::nullable("gift", ColumnType::Boolean),
        Column::nullable("category", ColumnType::Utf8),
        Column::nullable("business_day", ColumnType::Date),
        Column::nullable("paid_at", ColumnType::TimestampMicros),
    ];
    Arc::new(TableSchema::new(table.parse().unwrap(), columns, &["line_id"]).unwrap())
}

/// Rows with these keys; their other values follow from `version`.
pub(crate) fn rows(schema: &TableSchema, keys: &[i64], version: i64) -> RecordBatch {
    let of = |f: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new(
            keys.iter()
                .map(|k| f(k.wrapping_mul(31).wrapping_add(version)))
                .collect::<Int64Array>(),
        )
    };
    let small = |n: i64| i32::try_from(n.rem_euclid(1_000)).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(keys.to_vec())),
        Arc::new(keys.iter().map(|k| k / 3).collect::<Int64Array>()),
        of(&|n| n.rem_euclid(5_000)),
        Arc::new(keys.iter().map(|k| small(k + version) % 9 + 1).collect::<Int32Array>()),
        of(&|n| n.rem_euclid(100_000)),
        Arc::new(keys.iter().map(|k| f64::from(small(*k)) / 7.0).collect::<Float64Array>()),
        Arc::new(keys.iter().map(|k| Some(k % 5 == 0)).collect::<BooleanArray>()),
        Arc::new(keys.iter().map(|k| Some(format!("类目 {}", k % 97))).collect::<StringArray>()),
        Arc::new(
            keys.iter().map(|k| Some(20_000 + small(k / 1_000) % 365)).collect::<Date32Array>(),
        ),
        Arc::new(
            keys.iter()
                .map(|k| Some(1_700_000_000_000_000 + k * 1_000))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns).unwrap()
}

/// One transaction: inserts of the next keys and as many updates of random earlier ones.
pub(crate) fn changes(
    schema: &Arc<TableSchema>,
    rng: &mut StdRng,
    next: &mut i64,
    count: usize,
) -> ChangeSet {
    let half = count / 2;
    let (mut ops, mut keys) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..half {
        ops.push(Op::Insert);
        keys.push(*next);
        *next += 1;
    }
    for _ in half..count {
        ops.push(Op::Update);
        keys.push(rng.random_range(0..*next));
    }
    let after = rows(schema, &keys, *next);
    // A source's old image; an insert has none, and nobody looks at its columns.
    let mut before = after.columns().to_vec();
    for (column, at) in before.iter_mut().zip(0..) {
        if at > 0 {
            *column = new_null_array(column.data_type(), count);
        }
    }
    let before = RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), before).unwrap();
    let batch = ChangeBatch::new(Arc::clone(schema), ops, before, after).unwrap();
    ChangeSet { batches: vec![batch], ..ChangeSet::default() }
}
