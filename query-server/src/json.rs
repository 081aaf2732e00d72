//! Rows as JSON, written straight from Arrow: whole numbers keep every digit, decimals are strings,
//! times are ISO 8601, UUIDs their text, what JSON cannot say (NaN, infinity) is null.

use std::fmt::Write as _;

use chrono::{DateTime, NaiveDate};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
        Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
    error::ArrowError,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::uuids;

/// The name a column's type has in answers.
pub(crate) fn type_name(ty: &DataType) -> &'static str {
    match ty {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            "int32"
        }
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "int64",
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "float64",
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "decimal",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Timestamp(..) => "timestamp",
        DataType::Time32(_) | DataType::Time64(_) => "time",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        DataType::FixedSizeBinary(16) => "uuid",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary",
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "list",
        DataType::Dictionary(_, value) => type_name(value),
        _ => "other",
    }
}

/// Writes `[[...],...]`.
///
/// # Errors
/// When a column cannot be brought into a form to write.
pub(crate) fn write_rows(batches: &[RecordBatch], out: &mut String) -> Result<(), ArrowError> {
    out.push('[');
    let mut first = true;
    for batch in batches {
        let columns =
            batch.columns().iter().map(prepared).collect::<Result<Vec<_>, ArrowError>>()?;
        for row in 0..batch.num_rows() {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            out.push('[');
            for (i, column) in columns.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(column, row, out)?;
            }
            out.push(']');
        }
    }
    out.push(']');
    Ok(())
}

/// Brings a column into one of the shapes values are written from.
fn prepared(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let target = match array.data_type() {
        DataType::FixedSizeBinary(16) => return Ok(ArrayRef::clone(array)),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        DataType::Dictionary(_, value) => return prepared(&cast(array, value)?),
        _ => return Ok(ArrayRef::clone(array)),
    };
    cast(array, &target)
}

fn write_value(array: &ArrayRef, row: usize, out: &mut String) -> Result<(), ArrowError> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        out.push_str("null");
        return Ok(());
    }
    let _ = match array.data_type() {
        DataType::Boolean => write!(out, "{}", array.as_boolean().value(row)),
        DataType::Int8 => write!(out, "{}", array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => write!(out, "{}", array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => write!(out, "{}", array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(out, "{}", array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => write!(out, "{}", array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => write!(out, "{}", array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => write!(out, "{}", array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => write!(out, "{}", array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            // Through its own shortest digits, not through the nearest double.
            write_float(value.is_finite(), &value.to_string(), out)
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            write_float(value.is_finite(), &format!("{value:?}"), out)
        }
        DataType::Decimal128(..) => {
            write!(out, "\"{}\"", array.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        DataType::Utf8 => {
            write_text(array.as_string::<i32>().value(row), out);
            Ok(())
        }
        DataType::FixedSizeBinary(_) => {
            write!(out, "\"{}\"", uuids::text(array.as_fixed_size_binary().value(row)))
        }
        DataType::Binary => {
            out.push('"');
            for byte in array.as_binary::<i32>().value(row) {
                let _ = write!(out, "{byte:02x}");
            }
            out.push('"');
            Ok(())
        }
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            match NaiveDate::from_epoch_days(days) {
                Some(date) => write!(out, "\"{date}\""),
                None => write!(out, "null"),
            }
        }
        DataType::Timestamp(_, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            write_timestamp(micros, if zone.is_some() { "Z" } else { "" }, out);
            Ok(())
        }
        DataType::List(_) => {
            write_list(&array.as_list::<i32>().value(row), out)?;
            Ok(())
        }
        DataType::LargeList(_) => {
            write_list(&array.as_list::<i64>().value(row), out)?;
            Ok(())
        }
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
            write_text(&formatter.value(row).to_string(), out);
            Ok(())
        }
    };
    Ok(())
}

fn write_list(items: &ArrayRef, out: &mut String) -> Result<(), ArrowError> {
    let items = prepared(items)?;
    out.push('[');
    for i in 0..items.len() {
        if i > 0 {
            out.push(',');
        }
        write_value(&items, i, out)?;
    }
    out.push(']');
    Ok(())
}

fn write_float(finite: bool, digits: &str, out: &mut String) -> std::fmt::Result {
    out.write_str(if finite { digits } else { "null" })
}

fn write_timestamp(micros: i64, suffix: &str, out: &mut String) {
    let text = DateTime::from_timestamp_micros(micros)
        .map(|at| at.naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string());
    let _ = match text {
        Some(text) => write!(out, "\"{text}{suffix}\""),
        None => write!(out, "null"),
    };
}

/// Microseconds since 1970 as an ISO 8601 text.
pub(crate) fn timestamp(micros: i64) -> Option<String> {
    DateTime::from_timestamp_micros(micros)
        .map(|at| at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

/// Writes a JSON string.
pub(crate) fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if u32::from(c) < 0x20 => write!(out, "\\u{:04x}", u32::from(c)),
            c => out.write_char(c),
        };
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int64Array,
        ListArray, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn each_type_has_its_form() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int64Array::from(vec![Some(9_007_199_254_740_993), None]))),
            ("f", Arc::new(Float64Array::from(vec![1.0, f64::NAN]))),
            ("b", Arc::new(BooleanArray::from(vec![true, false]))),
            ("t", Arc::new(StringArray::from(vec!["药 \"a\"\n\u{1}", ""]))),
            ("d", Arc::new(Date32Array::from(vec![20_758, 0]))),
            (
                "at",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![1_793_500_000_120_000, 0])
                        .with_timezone("UTC"),
                ),
            ),
            (
                "n",
                Arc::new(
                    Decimal128Array::from(vec![12_345, -1])
                        .with_precision_and_scale(20, 2)
                        .unwrap(),
                ),
            ),
            (
                "u",
                Arc::new(
                    FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                        [Some([1_u8; 16]), None].into_iter(),
                        16,
                    )
                    .unwrap(),
                ),
            ),
            (
                "l",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
                    Some(vec![Some(1), None]),
                    None,
                ])),
            ),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        )
        .unwrap();
        let mut out = String::new();
        write_rows(&[batch.clone(), batch.slice(0, 0)], &mut out).unwrap();
        assert_eq!(
            out,
            concat!(
                r#"[[9007199254740993,1.0,true,"药 \"a\"\n\u0001","2026-11-01","#,
                r#""2026-11-01T02:26:40.120000Z","123.45","01010101-0101-0101-0101-010101010101",[1,null]],"#,
                r#"[null,null,false,"","1970-01-01","1970-01-01T00:00:00.000000Z","-0.01",null,null]]"#
            )
        );
        let _: serde_json::Value = serde_json::from_str(&out).unwrap();
    }
}
