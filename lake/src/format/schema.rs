//! Between our words and Iceberg's: columns, bounds, names of properties.
//!
//! Iceberg's library uses an Arrow of its own inside, so nothing of Arrow passes here.

use std::sync::Arc;

use datafusion::scalar::ScalarValue;
use iceberg::spec::{
    Datum, NestedField, PrimitiveLiteral, PrimitiveType, Schema, TableMetadata, Type,
};
use medlake_contract::{Column, ColumnType, Identity, TableName, TableSchema};

use crate::error::LakeError;

/// Table property: the key columns in key order, separated by commas.
pub(crate) const KEY_PROPERTY: &str = "medlake.key";
/// Table property, beside an empty key: what identifies a row instead. See [`identity_word`].
pub(crate) const IDENTITY_PROPERTY: &str = "medlake.identity";

/// The property's value for an identity.
pub(crate) const fn identity_word(identity: Identity) -> &'static str {
    match identity {
        Identity::Key => "key",
        Identity::FullRow => "full-row",
        Identity::Append => "append",
    }
}

fn iceberg_type(ty: &ColumnType) -> Option<PrimitiveType> {
    Some(match ty {
        ColumnType::Boolean => PrimitiveType::Boolean,
        ColumnType::Int32 => PrimitiveType::Int,
        ColumnType::Int64 => PrimitiveType::Long,
        ColumnType::Float64 => PrimitiveType::Double,
        ColumnType::Utf8 => PrimitiveType::String,
        ColumnType::Date => PrimitiveType::Date,
        ColumnType::TimestampMicros => PrimitiveType::Timestamptz,
        ColumnType::Binary => PrimitiveType::Binary,
        _ => return None,
    })
}

fn column_type(ty: &Type) -> Option<ColumnType> {
    let Type::Primitive(ty) = ty else { return None };
    Some(match ty {
        PrimitiveType::Boolean => ColumnType::Boolean,
        PrimitiveType::Int => ColumnType::Int32,
        PrimitiveType::Long => ColumnType::Int64,
        PrimitiveType::Double => ColumnType::Float64,
        PrimitiveType::String => ColumnType::Utf8,
        PrimitiveType::Date => ColumnType::Date,
        PrimitiveType::Timestamptz => ColumnType::TimestampMicros,
        PrimitiveType::Binary => ColumnType::Binary,
        _ => return None,
    })
}

/// The Iceberg schema of a table: the fields of `before` keep their ids, new ones follow
/// `last_column_id`.
pub(crate) fn iceberg_schema(
    schema: &TableSchema,
    before: Option<(&Schema, i32)>,
) -> Result<Schema, LakeError> {
    let mut next = before.map_or(0, |(_, last)| last);
    let mut fields = Vec::with_capacity(schema.columns().len());
    for column in schema.columns() {
        let ty = iceberg_type(&column.ty).ok_or_else(|| LakeError::Unsupported {
            table: schema.name().clone(),
            feature: format!("the type of column \"{}\"", column.name),
        })?;
        let id = before.and_then(|(s, _)| s.field_id_by_name(&column.name)).unwrap_or_else(|| {
            next += 1;
            next
        });
        let field = NestedField::new(id, &column.name, Type::Primitive(ty), !column.nullable);
        fields.push(Arc::new(field));
    }
    let key: Vec<i32> = schema
        .key_indices()
        .iter()
        // Iceberg does not let floating point identify a row; the key property still names it.
        .filter(|&&k| schema.columns()[k].ty != ColumnType::Float64)
        .map(|&k| fields[k].id)
        .collect();
    Schema::builder()
        .with_fields(fields)
        .with_identifier_field_ids(key)
        .build()
        .map_err(metadata_error("build the schema", schema.name()))
}

/// Our schema of a stored table; none when the table is not one of ours.
pub(crate) fn table_schema(
    name: &TableName,
    metadata: &TableMetadata,
) -> Result<Option<TableSchema>, LakeError> {
    let Some(key) = metadata.properties().get(KEY_PROPERTY) else {
        return Ok(None);
    };
    let unsupported = |feature: String| LakeError::Unsupported { table: name.clone(), feature };
    let mut columns = Vec::new();
    for field in metadata.current_schema().as_struct().fields() {
        let ty = column_type(&field.field_type).ok_or_else(|| {
            unsupported(format!("type {} in column \"{}\"", field.field_type, field.name))
        })?;
        columns.push(Column { name: field.name.clone(), ty, nullable: !field.required });
    }
    let schema = if key.is_empty() {
        let word = metadata.properties().get(IDENTITY_PROPERTY).map_or("", String::as_str);
        let identity = [Identity::FullRow, Identity::Append]
            .into_iter()
            .find(|identity| identity_word(*identity) == word)
            .ok_or_else(|| unsupported(format!("rows identified by {word:?}")))?;
        TableSchema::keyless(name.clone(), columns, identity)
    } else {
        let key: Vec<&str> = key.split(',').collect();
        TableSchema::new(name.clone(), columns, &key)
    };
    schema.map(Some).map_err(|e| LakeError::Corrupt { table: name.clone(), problem: e.to_string() })
}

/// The field ids of the columns, in their order.
pub(crate) fn field_ids(
    schema: &TableSchema,
    metadata: &TableMetadata,
) -> Result<Vec<i32>, LakeError> {
    schema
        .columns()
        .iter()
        .map(|column| {
            metadata.current_schema().field_id_by_name(&column.name).ok_or_else(|| {
                LakeError::Corrupt {
                    table: schema.name().clone(),
                    problem: format!("column \"{}\" has no field id", column.name),
                }
            })
        })
        .collect()
}

/// A bound as DataFusion's value; none when it is not of the column's type.
pub(crate) fn scalar(bound: &Datum, ty: &ColumnType) -> Option<ScalarValue> {
    Some(match (bound.literal(), ty) {
        (PrimitiveLiteral::Boolean(v), ColumnType::Boolean) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveLiteral::Int(v), ColumnType::Int32) => ScalarValue::Int32(Some(*v)),
        (PrimitiveLiteral::Int(v), ColumnType::Date) => ScalarValue::Date32(Some(*v)),
        (PrimitiveLiteral::Long(v), ColumnType::Int64) => ScalarValue::Int64(Some(*v)),
        (PrimitiveLiteral::Long(v), ColumnType::TimestampMicros) => {
            ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into()))
        }
        (PrimitiveLiteral::Double(v), ColumnType::Float64) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveLiteral::String(v), ColumnType::Utf8) => ScalarValue::Utf8(Some(v.clone())),
        (PrimitiveLiteral::Binary(v), ColumnType::Binary) => ScalarValue::Binary(Some(v.clone())),
        _ => return None,
    })
}

/// Wraps an error of the metadata library.
pub(crate) fn metadata_error(
    doing: &'static str,
    table: &TableName,
) -> impl FnOnce(iceberg::Error) -> LakeError {
    let table = table.clone();
    move |source| LakeError::Metadata { doing, table, source: Box::new(source) }
}
