//! Keys of rows: in a form that compares as they do, and as text that is stored.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryArray, Int32Array, Int64Array,
        StringArray,
    },
    compute::{cast, take},
    datatypes::{DataType, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use medlake_contract::TableSchema;
use serde_json::Value;

use crate::hex;

/// Reads the keys of one table's rows.
#[derive(Debug)]
pub(crate) struct Keys {
    converter: RowConverter,
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Keys {
    pub(crate) fn of(table: &TableSchema) -> Result<Self, ArrowError> {
        let columns = table.key_indices().to_vec();
        let fields: Vec<_> =
            columns.iter().map(|&c| Arc::clone(&table.arrow().fields()[c])).collect();
        let sorted = fields.iter().map(|f| SortField::new(f.data_type().clone())).collect();
        Ok(Self {
            converter: RowConverter::new(sorted)?,
            columns,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The keys of rows with the table's columns, as bytes that compare as the keys do.
    pub(crate) fn rows(&self, rows: &RecordBatch) -> Result<Rows, ArrowError> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&c| Arc::clone(rows.column(c))).collect();
        self.converter.convert_columns(&columns)
    }

    /// Such bytes of keys given by their columns alone.
    pub(crate) fn keys(&self, keys: &RecordBatch) -> Result<Rows, ArrowError> {
        self.converter.convert_columns(keys.columns())
    }

    /// Keys from such bytes.
    pub(crate) fn batch<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, ArrowError> {
        let parser = self.converter.parser();
        let rows = keys.into_iter().map(|key| parser.parse(key));
        let columns = self.converter.convert_rows(rows)?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// The key columns of one row.
    pub(crate) fn key_of(&self, rows: &RecordBatch, row: usize) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.iter().map(|&c| rows.column(c).slice(row, 1));
        // A slice of a large batch would keep all of it.
        let first = Int32Array::from_iter_values([0]);
        let columns =
            columns.map(|c| take(&c, &first, None)).collect::<Result<Vec<_>, ArrowError>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// Keys from what [`key_text`] made of each; those that are not keys of this table are left out.
    pub(crate) fn parse_all<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a Value>,
    ) -> Result<RecordBatch, ArrowError> {
        let keys: Vec<RecordBatch> =
            texts.into_iter().filter_map(|text| self.parse(text).ok()).collect();
        arrow::compute::concat_batches(&self.schema, &keys)
    }

    /// The key from what [`key_text`] made of it.
    pub(crate) fn parse(&self, text: &Value) -> Result<RecordBatch, ArrowError> {
        let wrong = || ArrowError::ParseError("a stored key is not one of this table".to_owned());
        let values = text.as_array().filter(|v| v.len() == self.columns.len()).ok_or_else(wrong)?;
        let columns = values.iter().zip(self.schema.fields()).map(|(value, field)| {
            value_from(value.as_str().ok_or_else(wrong)?, field.data_type()).ok_or_else(wrong)
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

/// The key in a row of key columns as an array of texts, each of which reads back to the same value:
/// bytes as hexadecimal digits, days and times as their number.
pub(crate) fn key_text(keys: &RecordBatch, row: usize) -> Value {
    keys.columns().iter().map(|column| value_text(column, row)).collect()
}

fn value_text(column: &ArrayRef, row: usize) -> Value {
    let one = column.slice(row, 1);
    if one.is_null(0) {
        return Value::Null;
    }
    let text = match one.data_type() {
        DataType::Binary => Some(hex::encode(one.as_binary::<i32>().value(0))),
        DataType::FixedSizeBinary(_) => Some(hex::encode(one.as_fixed_size_binary().value(0))),
        ty => {
            let number = as_number(ty).map_or(Ok(Arc::clone(&one)), |number| cast(&one, &number));
            let text = number.and_then(|number| cast(&number, &DataType::Utf8)).ok();
            text.and_then(|text| Some(text.as_string_opt::<i32>()?.value(0).to_owned()))
        }
    };
    text.map_or(Value::Null, Value::String)
}

/// The whole number that a day or time is inside.
fn as_number(ty: &DataType) -> Option<DataType> {
    match ty {
        DataType::Date32 => Some(DataType::Int32),
        DataType::Timestamp(..) | DataType::Time64(_) => Some(DataType::Int64),
        _ => None,
    }
}

fn value_from(text: &str, ty: &DataType) -> Option<ArrayRef> {
    let bytes = || {
        let mut bytes = Vec::new();
        hex::decode(text.as_bytes(), &mut bytes).map(|()| bytes)
    };
    let value: ArrayRef = match (ty, as_number(ty)) {
        (DataType::Binary, _) => Arc::new(BinaryArray::from_iter_values([bytes()?])),
        (DataType::FixedSizeBinary(_), _) => {
            Arc::new(FixedSizeBinaryArray::try_from_iter([bytes()?].into_iter()).ok()?)
        }
        (_, Some(DataType::Int32)) => {
            cast(&Int32Array::from_iter_values([text.parse().ok()?]), ty).ok()?
        }
        (_, Some(_)) => cast(&Int64Array::from_iter_values([text.parse().ok()?]), ty).ok()?,
        _ => cast(&StringArray::from_iter_values([text]), ty).ok()?,
    };
    (value.data_type() == ty && value.is_valid(0)).then_some(value)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, TimestampMicrosecondArray};
    use medlake_contract::{Column, ColumnType};

    use super::*;

    #[test]
    fn a_key_comes_back_from_its_text() {
        let types = [
            ColumnType::Int64,
            ColumnType::Utf8,
            ColumnType::Binary,
            ColumnType::Uuid,
            ColumnType::Decimal { precision: 20, scale: 0 },
            ColumnType::Date,
            ColumnType::TimestampMicros,
        ];
        let names: Vec<String> = (0..types.len()).map(|i| format!("k{i}")).collect();
        let columns = names.iter().zip(&types).map(|(n, t)| Column::required(n, t.clone()));
        let key: Vec<&str> = names.iter().map(String::as_str).collect();
        let table = TableSchema::new("a.b".parse().unwrap(), columns.collect(), &key).unwrap();
        let uuids = [[7_u8; 16], [255; 16]];
        let rows = RecordBatch::try_new(
            Arc::clone(table.arrow()),
            vec![
                Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])),
                Arc::new(StringArray::from(vec!["药 \"", ""])),
                Arc::new(BinaryArray::from_vec(vec![&[0, 255], &[]])),
                Arc::new(FixedSizeBinaryArray::try_from_iter(uuids.into_iter()).unwrap()),
                Arc::new(
                    Decimal128Array::from(vec![u64::MAX.into(), 0])
                        .with_precision_and_scale(20, 0)
                        .unwrap(),
                ),
                Arc::new(Date32Array::from(vec![-1, 2_932_896])),
                Arc::new(
                    TimestampMicrosecondArray::from(vec![-1, 4_102_444_800_000_001])
                        .with_timezone("UTC"),
                ),
            ],
        )
        .unwrap();
        let keys = Keys::of(&table).unwrap();
        let encoded = keys.rows(&rows).unwrap();
        for row in 0..2 {
            let key = keys.key_of(&rows, row).unwrap();
            let text = key_text(&key, 0);
            assert!(text.as_array().unwrap().iter().all(Value::is_string), "{text}");
            assert_eq!(keys.parse(&text).unwrap(), key);
            assert_eq!(keys.batch([encoded.row(row).as_ref()]).unwrap(), key);
        }
        assert!(keys.parse(&serde_json::json!(["1"])).is_err());
        assert!(keys.parse(&serde_json::json!(["x", "", "0", "", "1", "1", "1"])).is_err());
    }
}
