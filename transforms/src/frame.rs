//! Frame models: marts computed by a function over Polars frames instead of by SQL.
//!
//! Polars has an Arrow of its own. Values cross between the two by plain copies, column by column:
//! the inputs of a frame model are already reduced by SQL.

mod adherence;

use std::sync::Arc;

use datafusion::arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    },
    compute::{cast, concat_batches},
    datatypes::{
        DataType as ArrowType, Date32Type, Float64Type, Int64Type, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
    record_batch::RecordBatch,
};
use medlake_contract::{ColumnType, TableSchema};
use polars::prelude::{
    BooleanChunked, Column, DataFrame, Float64Chunked, Int32Chunked, Int64Chunked, IntoColumn,
    NewChunkedArray, PolarsResult, StringChunked, polars_err,
};

use crate::error::MartError;

/// What a frame function may know besides its inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameContext {
    /// The last day seen in the inputs, in days since 1970; `None` when they are empty.
    pub(crate) as_of_day: Option<i32>,
}

/// One frame per declared input, in the declared order, to the rows of the mart.
pub(crate) type FrameFunction = fn(&[DataFrame], FrameContext) -> PolarsResult<DataFrame>;

/// The function of this name, and a number that goes up when its results change: part of the
/// definition hash, so that a new rule rebuilds the mart.
pub(crate) fn function(name: &str) -> Option<(FrameFunction, u32)> {
    match name {
        "adherence" => Some((adherence::adherence, 1)),
        _ => None,
    }
}

/// Rows as a frame. Days become dates; times are their microseconds.
pub(crate) fn to_frame(
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> Result<DataFrame, MartError> {
    // Text may come in another form than the declared inputs have.
    let schema = batches.first().map_or_else(|| Arc::clone(schema), RecordBatch::schema);
    let rows = concat_batches(&schema, batches)?;
    let columns = schema
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, array)| to_column(field.name(), array))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(DataFrame::new(rows.num_rows(), columns)?)
}

fn to_column(name: &str, array: &ArrayRef) -> Result<Column, MartError> {
    let name = name.into();
    Ok(match array.data_type() {
        ArrowType::Boolean => {
            BooleanChunked::from_iter_options(name, array.as_boolean().iter()).into_column()
        }
        ArrowType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            Float64Chunked::from_iter_options(name, values.iter()).into_column()
        }
        ArrowType::Date32 => {
            let values = array.as_primitive::<Date32Type>();
            Int32Chunked::from_iter_options(name, values.iter()).into_date().into_column()
        }
        ArrowType::Timestamp(_, zone) => {
            let micros = cast(array, &ArrowType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
            let values = micros.as_primitive::<TimestampMicrosecondType>();
            Int64Chunked::from_iter_options(name, values.iter()).into_column()
        }
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => {
            let text = cast(array, &ArrowType::Utf8)?;
            StringChunked::from_iter_options(name, text.as_string::<i32>().iter()).into_column()
        }
        _ => {
            let whole = cast(array, &ArrowType::Int64)?;
            let values = whole.as_primitive::<Int64Type>();
            Int64Chunked::from_iter_options(name, values.iter()).into_column()
        }
    })
}

/// A frame as rows of a mart: its columns are found by name.
pub(crate) fn from_frame(frame: &DataFrame, mart: &TableSchema) -> Result<RecordBatch, MartError> {
    let columns = mart
        .columns()
        .iter()
        .map(|c| from_column(frame.column(&c.name)?, &c.ty))
        .collect::<PolarsResult<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(mart.arrow_nullable()), columns)?)
}

fn from_column(column: &Column, ty: &ColumnType) -> PolarsResult<ArrayRef> {
    Ok(match ty {
        ColumnType::Boolean => Arc::new(column.bool()?.iter().collect::<BooleanArray>()),
        ColumnType::Int64 => Arc::new(column.i64()?.iter().collect::<Int64Array>()),
        ColumnType::Float64 => Arc::new(column.f64()?.iter().collect::<Float64Array>()),
        ColumnType::Utf8 => Arc::new(column.str()?.iter().collect::<StringArray>()),
        ColumnType::Date => Arc::new(column.date()?.physical().iter().collect::<Date32Array>()),
        ColumnType::TimestampMicros => {
            let micros: TimestampMicrosecondArray = column.i64()?.iter().collect();
            Arc::new(micros.with_timezone("UTC"))
        }
        other => {
            return Err(polars_err!(ComputeError: "column type {other:?} is not known to frames"));
        }
    })
}
