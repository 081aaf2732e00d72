//! What a column holds, in a few words that do not depend on the order of rows: as
//! `tests/readers/digest.py` says it, for our own engine.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{
        Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
        Time64MicrosecondType, TimestampMicrosecondType,
    },
};
use datafusion::prelude::SessionContext;
use medlake_contract::{Column, ColumnType};
use medlake_lake::ReadView;
use serde_json::{Value, json};

/// How many values, their sum, the sum of their hashes.
#[derive(Default, Clone)]
struct Digest {
    count: u64,
    sum: u64,
    hash: u64,
}

/// What our engine sees of a table: its rows, those under each filter, and all its columns.
pub(crate) async fn read(view: &ReadView, table: &str, filters: &[String]) -> Value {
    let context = SessionContext::new();
    context.register_catalog("medlake", view.catalog());
    let collect = async |sql: String| {
        let batches = context.sql(&sql).await.unwrap().collect().await;
        batches.unwrap_or_else(|e| panic!("{sql}: {e}"))
    };
    let count = async |condition: &str| {
        let sql = format!("select count(*) from medlake.{table} {condition}");
        collect(sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
    };
    let mut matching = Vec::new();
    for filter in filters {
        matching.push(count(&format!("where {filter}")).await);
    }
    let info = view.tables().into_iter().find(|t| t.schema.name().to_string() == table).unwrap();
    let rows = collect(format!("select * from medlake.{table}")).await;
    let mut seen = digest(info.schema.columns(), &rows);
    seen["count"] = count("").await.into();
    seen["matching"] = matching.into();
    seen
}

/// What these rows hold.
fn digest(columns: &[Column], batches: &[RecordBatch]) -> Value {
    let mut digests = vec![Digest::default(); columns.len()];
    let mut rows = Digest::default();
    for batch in batches {
        // A query may hold texts in another way.
        let arrays = batch.columns().iter().zip(columns);
        let arrays: Vec<ArrayRef> =
            arrays.map(|(array, column)| cast(array, &column.ty.arrow()).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let mut text = Vec::new();
            for (at, (column, array)) in columns.iter().zip(&arrays).enumerate() {
                if let Some((value, number)) = canonical(array, row, &column.ty) {
                    digests[at].count += 1;
                    digests[at].sum = digests[at].sum.wrapping_add(low_bits(number));
                    digests[at].hash += u64::from(crc32fast::hash(&value));
                }
                text.extend(part(array, row, column));
            }
            rows.count += 1;
            rows.hash += u64::from(crc32fast::hash(&text));
        }
    }
    let said = columns.iter().zip(digests).map(|(column, Digest { count, sum, hash })| {
        (column.name.clone(), format!("{count} values, sum {sum}, hash {hash}").into())
    });
    let said: serde_json::Map<String, Value> = said.collect();
    json!({ "columns": said, "rows": format!("{} rows, hash {}", rows.count, rows.hash) })
}

/// A number modulo 2^64.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "that is what it is for"
)]
fn low_bits(number: i128) -> u64 {
    number as u64
}

/// A part of a row or of a nested value, preceded by its length.
fn part(array: &ArrayRef, row: usize, column: &Column) -> Vec<u8> {
    match canonical(array, row, &column.ty) {
        None => b"-".to_vec(),
        Some((text, _)) => [format!("{}:", text.len()).as_bytes(), &text].concat(),
    }
}

/// The text of a value and what it adds to the sum; none when it is null.
fn canonical(array: &ArrayRef, row: usize, ty: &ColumnType) -> Option<(Vec<u8>, i128)> {
    if array.is_null(row) {
        return None;
    }
    let number = |value: i128| Some((value.to_string().into_bytes(), value));
    let long = |text: Vec<u8>| {
        let length = text.len() as i128;
        Some((text, length))
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let float = |value: f64| {
        if value.is_nan() {
            return Some((b"nan".to_vec(), 0));
        }
        #[expect(clippy::cast_possible_truncation, reason = "the whole part")]
        let whole = if value.abs() < 9e18 { value.trunc() as i128 } else { 0 };
        Some((hex(&value.to_be_bytes()).into_bytes(), whole))
    };
    match ty {
        ColumnType::Boolean => {
            let value = array.as_boolean().value(row);
            Some((value.to_string().into_bytes(), i128::from(value)))
        }
        ColumnType::Int32 => number(array.as_primitive::<Int32Type>().value(row).into()),
        ColumnType::Int64 => number(array.as_primitive::<Int64Type>().value(row).into()),
        ColumnType::Float32 => float(array.as_primitive::<Float32Type>().value(row).into()),
        ColumnType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        ColumnType::Decimal { .. } => number(array.as_primitive::<Decimal128Type>().value(row)),
        ColumnType::Date => number(array.as_primitive::<Date32Type>().value(row).into()),
        ColumnType::Time => number(array.as_primitive::<Time64MicrosecondType>().value(row).into()),
        ColumnType::TimestampMicros | ColumnType::LocalTimestampMicros => {
            number(array.as_primitive::<TimestampMicrosecondType>().value(row).into())
        }
        ColumnType::Utf8 => long(array.as_string::<i32>().value(row).into()),
        ColumnType::Uuid | ColumnType::Fixed(_) => {
            long(hex(array.as_fixed_size_binary().value(row)).into())
        }
        ColumnType::Binary => long(hex(array.as_binary::<i32>().value(row)).into()),
        ColumnType::List(element) => {
            let values = array.as_list::<i32>().value(row);
            long((0..values.len()).flat_map(|at| part(&values, at, element)).collect())
        }
        ColumnType::Struct(fields) => {
            let columns = array.as_struct().columns().iter().zip(fields);
            long(columns.flat_map(|(values, field)| part(values, row, field)).collect())
        }
        ColumnType::Map(key, value) => {
            let pairs = array.as_map().value(row);
            let (keys, values) = (pairs.column(0), pairs.column(1));
            let pair = |at| [part(keys, at, key), part(values, at, value)].concat();
            let mut pairs: Vec<Vec<u8>> = (0..keys.len()).map(pair).collect();
            pairs.sort();
            long(pairs.concat())
        }
        ty => panic!("a column of type {ty:?}"),
    }
}
