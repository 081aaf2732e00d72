//! A table's columns and bounds in Delta's words.

use datafusion::scalar::ScalarValue;
use deltalake_core::kernel::{
    ArrayType, DataType, MapType, PrimitiveType, StructField, StructType,
};
use medlake_contract::{Column, ColumnType, TableSchema};
use serde_json::{Map, Value, json};

use crate::{error::LakeError, format::bounds::Bounds};

/// The Delta schema of a table.
pub(super) fn delta_schema(schema: &TableSchema) -> Result<StructType, LakeError> {
    let unsupported =
        |feature: String| LakeError::Unsupported { table: schema.name().clone(), feature };
    let fields: Result<Vec<StructField>, String> = schema.columns().iter().map(field).collect();
    let fields = fields.map_err(unsupported)?;
    StructType::try_new(fields).map_err(|e| unsupported(format!("columns Delta refuses ({e})")))
}

fn field(column: &Column) -> Result<StructField, String> {
    Ok(StructField::new(&column.name, data_type(column)?, column.nullable))
}

fn data_type(column: &Column) -> Result<DataType, String> {
    let primitive = match &column.ty {
        ColumnType::Boolean => PrimitiveType::Boolean,
        ColumnType::Int32 => PrimitiveType::Integer,
        ColumnType::Int64 => PrimitiveType::Long,
        ColumnType::Float32 => PrimitiveType::Float,
        ColumnType::Float64 => PrimitiveType::Double,
        ColumnType::Decimal { precision, scale } => PrimitiveType::decimal(*precision, *scale)
            .map_err(|e| format!("the type of column \"{}\" in Delta ({e})", column.name))?,
        ColumnType::Utf8 => PrimitiveType::String,
        ColumnType::Binary => PrimitiveType::Binary,
        ColumnType::Date => PrimitiveType::Date,
        ColumnType::TimestampMicros => PrimitiveType::Timestamp,
        ColumnType::LocalTimestampMicros => PrimitiveType::TimestampNtz,
        ColumnType::List(element) => {
            return Ok(ArrayType::new(data_type(element)?, element.nullable).into());
        }
        ColumnType::Struct(fields) => {
            let fields = fields.iter().map(field).collect::<Result<Vec<_>, _>>()?;
            let fields = StructType::try_new(fields)
                .map_err(|e| format!("the fields of column \"{}\" in Delta ({e})", column.name))?;
            return Ok(fields.into());
        }
        ColumnType::Map(key, value) => {
            return Ok(MapType::new(data_type(key)?, data_type(value)?, value.nullable).into());
        }
        other => {
            return Err(format!(
                "column \"{}\" of type {other:?}, which Delta does not have",
                column.name
            ));
        }
    };
    Ok(DataType::Primitive(primitive))
}

/// What is known of one column of a file.
pub(super) struct ColumnStats {
    pub(super) name: String,
    pub(super) bounds: Bounds,
}

/// The `stats` of a Delta file action. Bounds are of all rows of the file, dead ones too.
pub(super) fn stats(rows: u32, columns: &[ColumnStats], tight: bool) -> String {
    let mut nulls = Map::new();
    let mut min = Map::new();
    let mut max = Map::new();
    for column in columns {
        if let Some(count) = column.bounds.nulls {
            nulls.insert(column.name.clone(), count.into());
        }
        // Both or none: a reader takes a missing one for "no value".
        let bounds = column.bounds.min.as_ref().and_then(|v| bound(v, Rounding::Down));
        let bounds = bounds.zip(column.bounds.max.as_ref().and_then(|v| bound(v, Rounding::Up)));
        if let Some((low, high)) = bounds {
            min.insert(column.name.clone(), low);
            max.insert(column.name.clone(), high);
        }
    }
    let mut stats = json!({
        "numRecords": rows, "minValues": min, "maxValues": max, "nullCount": nulls,
    });
    if !tight {
        stats["tightBounds"] = false.into();
    }
    stats.to_string()
}

#[derive(Clone, Copy)]
enum Rounding {
    Down,
    Up,
}

/// A bound as JSON; none for types whose bounds Delta's readers do not agree on.
fn bound(value: &ScalarValue, rounding: Rounding) -> Option<Value> {
    use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
    // Delta keeps timestamps in statistics to the millisecond.
    let millisecond = |micros: i64| match rounding {
        Rounding::Down => Some(micros.div_euclid(1_000) * 1_000),
        Rounding::Up => micros.checked_add(999).map(|m| m.div_euclid(1_000) * 1_000),
    };
    Some(match value {
        ScalarValue::Int32(Some(v)) => (*v).into(),
        ScalarValue::Int64(Some(v)) => (*v).into(),
        ScalarValue::Float32(Some(v)) if v.is_finite() => f64::from(*v).into(),
        ScalarValue::Float64(Some(v)) if v.is_finite() => (*v).into(),
        ScalarValue::Utf8(Some(v)) => v.clone().into(),
        ScalarValue::Date32(Some(v)) => {
            date32_to_datetime(*v)?.format("%Y-%m-%d").to_string().into()
        }
        ScalarValue::TimestampMicrosecond(Some(v), zone) => {
            let time = timestamp_us_to_datetime(millisecond(*v)?)?;
            let text = time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
            if zone.is_some() { format!("{text}Z").into() } else { text.into() }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_never_exclude_what_is_there() {
        let utc = Some("UTC".into());
        let time = |micros| ScalarValue::TimestampMicrosecond(Some(micros), utc.clone());
        let column = |name: &str, min: ScalarValue, max: ScalarValue| ColumnStats {
            name: name.to_owned(),
            bounds: Bounds { min: Some(min), max: Some(max), nulls: Some(1) },
        };
        let columns = [
            column("at", time(-1), time(1_700_000_000_000_001)),
            column("day", ScalarValue::Date32(Some(0)), ScalarValue::Date32(Some(19_675))),
            column("n", ScalarValue::Int64(Some(1)), ScalarValue::Int64(Some(2))),
            column("x", ScalarValue::Float64(Some(f64::NEG_INFINITY)), ScalarValue::Float64(None)),
        ];
        let stats: Value = serde_json::from_str(&stats(5, &columns, false)).unwrap();
        let expected = json!({
            "numRecords": 5,
            "minValues": {"at": "1969-12-31T23:59:59.999Z", "day": "1970-01-01", "n": 1},
            "maxValues": {"at": "2023-11-14T22:13:20.001Z", "day": "2023-11-14", "n": 2},
            "nullCount": {"at": 1, "day": 1, "n": 1, "x": 1},
            "tightBounds": false,
        });
        assert_eq!(stats, expected);
    }

    #[test]
    fn what_delta_cannot_hold_is_named() {
        let columns = vec![
            Column::required("id", ColumnType::Int64),
            Column::nullable("token", ColumnType::Uuid),
        ];
        let table = TableSchema::new("mall.t".parse().unwrap(), columns, &["id"]).unwrap();
        let error = delta_schema(&table).unwrap_err().to_string();
        assert!(error.contains("\"token\""), "{error}");
    }
}
