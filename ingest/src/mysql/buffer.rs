use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, PrimitiveArray,
        RecordBatch, StringArray,
    },
    buffer::{Buffer as Raw, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{
        ArrowPrimitiveType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type,
        TimestampMicrosecondType,
    },
    error::ArrowError,
};
use medlake_contract::{ColumnType, TableSchema};
use uuid::Uuid;

/// The values of one column, one after another.
#[derive(Debug)]
pub(crate) struct Buffer {
    valid: Vec<bool>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>),
    Uuid(Vec<[u8; 16]>),
    /// Text and bytes: all after another, and where each ends.
    Bytes(Vec<u8>, Vec<i32>),
}

macro_rules! push {
    ($name:ident, $kind:ident, $ty:ty) => {
        #[inline]
        pub(crate) fn $name(&mut self, value: $ty) {
            self.valid.push(true);
            if let Values::$kind(values) = &mut self.values {
                values.push(value);
            }
        }
    };
}

impl Buffer {
    /// For a column of a type that columns of MySQL have here ([`super::column::of`]).
    fn new(ty: &ColumnType) -> Self {
        let values = match ty {
            ColumnType::Boolean => Values::Boolean(Vec::new()),
            ColumnType::Int32 | ColumnType::Date => Values::Int32(Vec::new()),
            ColumnType::Float32 => Values::Float32(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            ColumnType::Decimal { .. } => Values::Decimal(Vec::new()),
            ColumnType::Uuid => Values::Uuid(Vec::new()),
            ColumnType::Utf8 | ColumnType::Binary => Values::Bytes(Vec::new(), vec![0]),
            _ => Values::Int64(Vec::new()),
        };
        Self { valid: Vec::new(), values }
    }

    push!(push_bool, Boolean, bool);
    push!(push_i32, Int32, i32);
    push!(push_i64, Int64, i64);
    push!(push_f32, Float32, f32);
    push!(push_f64, Float64, f64);
    push!(push_decimal, Decimal, i128);
    push!(push_uuid, Uuid, [u8; 16]);

    /// Appends what `write` appends; answers what it answers, and nothing is appended when that is
    /// false or too much for a column.
    #[inline]
    pub(crate) fn push_bytes(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let Values::Bytes(bytes, ends) = &mut self.values else { return false };
        let start = bytes.len();
        let written = write(bytes);
        match i32::try_from(bytes.len()) {
            Ok(end) if written => {
                ends.push(end);
                self.valid.push(true);
                true
            }
            _ => {
                bytes.truncate(start);
                false
            }
        }
    }

    #[inline]
    pub(crate) fn push_null(&mut self) {
        self.pad(self.valid.len() + 1);
    }

    /// Appends nulls until it is `length` long.
    #[inline]
    fn pad(&mut self, length: usize) {
        if self.valid.len() >= length {
            return;
        }
        self.valid.resize(length, false);
        match &mut self.values {
            Values::Boolean(v) => v.resize(length, false),
            Values::Int32(v) => v.resize(length, 0),
            Values::Int64(v) => v.resize(length, 0),
            Values::Float32(v) => v.resize(length, 0.0),
            Values::Float64(v) => v.resize(length, 0.0),
            Values::Decimal(v) => v.resize(length, 0),
            Values::Uuid(v) => v.resize(length, [0; 16]),
            Values::Bytes(_, ends) => {
                let end = ends.last().copied().unwrap_or_default();
                ends.resize(length + 1, end);
            }
        }
    }

    fn truncate(&mut self, length: usize) {
        if self.valid.len() <= length {
            return;
        }
        self.valid.truncate(length);
        match &mut self.values {
            Values::Boolean(v) => v.truncate(length),
            Values::Int32(v) => v.truncate(length),
            Values::Int64(v) => v.truncate(length),
            Values::Float32(v) => v.truncate(length),
            Values::Float64(v) => v.truncate(length),
            Values::Decimal(v) => v.truncate(length),
            Values::Uuid(v) => v.truncate(length),
            Values::Bytes(bytes, ends) => {
                ends.truncate(length + 1);
                bytes.truncate(ends.last().map_or(0, |end| usize::try_from(*end).unwrap_or(0)));
            }
        }
    }

    fn finish(self, ty: &ColumnType) -> Result<ArrayRef, ArrowError> {
        let nulls = (!self.valid.iter().all(|valid| *valid)).then(|| NullBuffer::from(self.valid));
        Ok(match (self.values, ty) {
            (Values::Boolean(v), _) => Arc::new(BooleanArray::new(v.into(), nulls)),
            (Values::Int32(v), ColumnType::Date) => primitive::<Date32Type>(v, nulls)?,
            (Values::Int32(v), _) => primitive::<Int32Type>(v, nulls)?,
            (Values::Int64(v), ColumnType::TimestampMicros) => Arc::new(
                PrimitiveArray::<TimestampMicrosecondType>::try_new(ScalarBuffer::from(v), nulls)?
                    .with_timezone("UTC"),
            ),
            (Values::Int64(v), ColumnType::LocalTimestampMicros) => {
                primitive::<TimestampMicrosecondType>(v, nulls)?
            }
            (Values::Int64(v), _) => primitive::<Int64Type>(v, nulls)?,
            (Values::Float32(v), _) => primitive::<Float32Type>(v, nulls)?,
            (Values::Float64(v), _) => primitive::<Float64Type>(v, nulls)?,
            (Values::Decimal(v), _) => {
                let values = Decimal128Array::try_new(ScalarBuffer::from(v), nulls)?;
                Arc::new(values.with_data_type(ty.arrow()))
            }
            (Values::Uuid(v), _) => {
                let bytes = Raw::from_vec(v.into_flattened());
                Arc::new(FixedSizeBinaryArray::try_new(16, bytes, nulls)?)
            }
            (Values::Bytes(bytes, ends), ty) => {
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                let bytes = Raw::from_vec(bytes);
                if *ty == ColumnType::Binary {
                    Arc::new(BinaryArray::try_new(ends, bytes, nulls)?)
                } else {
                    Arc::new(StringArray::try_new(ends, bytes, nulls)?)
                }
            }
        })
    }

    /// The value of a row, in JSON; none when it is not there.
    pub(crate) fn json(&self, row: usize) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        if !*self.valid.get(row)? {
            return Some(Json::Null);
        }
        Some(match &self.values {
            Values::Boolean(v) => Json::from(*v.get(row)?),
            Values::Int32(v) => Json::from(*v.get(row)?),
            Values::Int64(v) => Json::from(*v.get(row)?),
            Values::Float32(v) => Json::from(*v.get(row)?),
            Values::Float64(v) => Json::from(*v.get(row)?),
            // Digits without the point: enough to know a row by.
            Values::Decimal(v) => Json::from(v.get(row)?.to_string()),
            Values::Uuid(v) => Json::from(Uuid::from_bytes(*v.get(row)?).to_string()),
            Values::Bytes(bytes, ends) => {
                let at = |i: usize| ends.get(i).and_then(|end| usize::try_from(*end).ok());
                let value = bytes.get(at(row)?..at(row + 1)?)?;
                Json::from(String::from_utf8_lossy(value))
            }
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(PrimitiveArray::<T>::try_new(ScalarBuffer::from(values), nulls)?))
}

/// One image of rows of a table: what they were before, or after. Rows at its end that have no image
/// need not be there until [`Image::finish`].
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) columns: Vec<Buffer>,
}

impl Image {
    pub(crate) fn new(schema: &TableSchema) -> Self {
        Self { columns: schema.columns().iter().map(|c| Buffer::new(&c.ty)).collect() }
    }

    /// Adds empty rows until there are `length`.
    #[inline]
    pub(crate) fn pad(&mut self, length: usize) {
        for column in &mut self.columns {
            column.pad(length);
        }
    }

    /// Rows in it, as long as all columns have as many.
    pub(crate) fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.valid.len())
    }

    /// Takes away rows from `length` on.
    pub(crate) fn truncate(&mut self, length: usize) {
        for column in &mut self.columns {
            column.truncate(length);
        }
    }

    /// The rows, as many as `length`, in the columns of `schema`, all nullable.
    pub(crate) fn finish(
        mut self,
        schema: &TableSchema,
        length: usize,
    ) -> Result<RecordBatch, ArrowError> {
        self.truncate(length);
        self.pad(length);
        let columns = self.columns.into_iter().zip(schema.columns());
        let arrays = columns.map(|(buffer, c)| buffer.finish(&c.ty)).collect::<Result<_, _>>()?;
        RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), arrays)
    }
}
