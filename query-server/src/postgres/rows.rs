//! Rows on the wire: from record batches to data rows, one batch at a time.

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::{
    array::timezone::Tz, datatypes::Schema, error::ArrowError, record_batch::RecordBatch,
};
use futures::{StreamExt, stream};
use medlake_contract::Kind;
use pgwire::{
    api::{
        Type,
        portal::Format,
        results::{FieldFormat, FieldInfo, QueryResponse},
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::data::DataRow,
};

use super::value::{Values, pg_type, type_size, with_length};
use crate::{error::QueryError, stream::QueryStream};

/// What clients are told about the columns; `names` replace the engine's own where they fit.
pub(crate) fn fields(
    schema: &Schema,
    names: Option<Vec<String>>,
    format: Option<&Format>,
) -> Vec<FieldInfo> {
    let names = names.filter(|names| names.len() == schema.fields().len());
    schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let ty = pg_type(column);
            let size = type_size(&ty);
            let name = names.as_ref().map_or_else(|| column.name().clone(), |n| n[i].clone());
            FieldInfo::new(name, None, None, ty, column_format(format, i)).with_type_size(size)
        })
        .collect()
}

/// A client may send a format for each column, one for all, or too few.
fn column_format(format: Option<&Format>, column: usize) -> FieldFormat {
    match format {
        None | Some(Format::UnifiedText) => FieldFormat::Text,
        Some(Format::UnifiedBinary) => FieldFormat::Binary,
        Some(Format::Individual(codes)) => {
            codes.get(column).map_or(FieldFormat::Text, |code| FieldFormat::from(*code))
        }
    }
}

/// A response whose rows come as the engine makes them.
pub(crate) fn respond(
    rows: QueryStream,
    fields: Vec<FieldInfo>,
    tag: &str,
    zone: Tz,
) -> QueryResponse {
    let fields = Arc::new(fields);
    let columns = Arc::clone(&fields);
    let rows = rows.flat_map(move |batch| {
        let encoded = batch
            .map_err(to_wire)
            .and_then(|batch| encode(&batch, &columns, zone).map_err(|e| to_wire(unencodable(e))));
        match encoded {
            Ok(rows) => stream::iter(rows.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        }
    });
    let mut response = QueryResponse::new(fields, rows);
    response.set_command_tag(tag);
    response
}

/// A response of rows of text that need no engine.
pub(crate) fn respond_texts(columns: &[&str], rows: Vec<Vec<String>>, tag: &str) -> QueryResponse {
    let fields = columns.iter().map(|name| {
        FieldInfo::new((*name).to_owned(), None, None, Type::TEXT, FieldFormat::Text)
            .with_type_size(-1)
    });
    let count = i16::try_from(columns.len()).unwrap_or(i16::MAX);
    let rows = rows.into_iter().map(move |row| {
        let mut data = BytesMut::new();
        for value in row {
            with_length(&mut data, |out| {
                out.extend_from_slice(value.as_bytes());
                Ok(true)
            })
            .map_err(|e| to_wire(unencodable(e)))?;
        }
        Ok(DataRow::new(data, count))
    });
    let mut response = QueryResponse::new(
        Arc::new(fields.collect()),
        stream::iter(rows.collect::<Vec<PgWireResult<DataRow>>>()),
    );
    response.set_command_tag(tag);
    response
}

fn encode(batch: &RecordBatch, fields: &[FieldInfo], zone: Tz) -> Result<Vec<DataRow>, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(fields)
        .map(|(array, field)| Ok((Values::new(array, field.datatype(), zone)?, field.format())))
        .collect::<Result<Vec<_>, ArrowError>>()?;
    let count = i16::try_from(columns.len())
        .map_err(|_| ArrowError::ComputeError("the row has too many columns".into()))?;
    (0..batch.num_rows())
        .map(|row| {
            let mut data = BytesMut::with_capacity(columns.len() * 16);
            for (values, format) in &columns {
                with_length(&mut data, |out| match format {
                    FieldFormat::Text => values.text(row, out),
                    FieldFormat::Binary => values.binary(row, out),
                })?;
            }
            Ok(DataRow::new(data, count))
        })
        .collect()
}

fn unencodable(error: ArrowError) -> QueryError {
    QueryError::Engine { message: error.to_string(), kind: Kind::Internal, source: error.into() }
}

/// The error as PostgreSQL's clients read it.
pub(crate) fn to_wire(error: QueryError) -> PgWireError {
    let mut info =
        ErrorInfo::new("ERROR".to_owned(), error.sqlstate().to_owned(), error.to_string());
    info.severity_nonlocalized = Some("ERROR".to_owned());
    info.detail = error.detail();
    info.hint = error.hint();
    info.position = error.position().map(|position| position.to_string());
    PgWireError::UserError(Box::new(info))
}
