//! Between our words and Iceberg's: columns with their field ids, types, names of properties.
//!
//! Iceberg's library uses an Arrow of its own inside, so nothing of Arrow passes here.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, SchemaRef};
use datafusion::scalar::ScalarValue;
use iceberg::spec::{
    DEFAULT_SCHEMA_NAME_MAPPING, FormatVersion, ListType, Literal, MapType, NameMapping,
    NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, TableMetadata, Type,
};
use medlake_contract::{Column, ColumnType, Identity, TableName, TableSchema};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::{
    error::LakeError,
    format::{adapt::with_views, bounds::scalar_of},
};

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

/// A table's columns with their Iceberg field ids, nested ones included: what finds a column in
/// files written when it had another name, place or type.
#[derive(Debug)]
pub(crate) struct Shape {
    schema: Arc<TableSchema>,
    fields: Vec<ShapeField>,
    file_arrow: SchemaRef,
    scanned: SchemaRef,
    leaves: Vec<Leaf>,
    names: Option<NameMapping>,
}

/// What a column is in the metadata, beyond what the contract says of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShapeField {
    /// Never given to another column.
    pub(crate) id: i32,
    /// The value in rows of files that do not have the column (format v3); none is null.
    pub(crate) default: Option<ScalarValue>,
    /// Of a struct its fields, of a list its element, of a map its key and its value.
    pub(crate) children: Vec<ShapeField>,
}

/// A column of values, as a Parquet file of the table has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) id: i32,
    pub(crate) ty: ColumnType,
    /// Whether a row may hold several of its values.
    pub(crate) repeated: bool,
}

impl Shape {
    /// The current columns of a stored table.
    pub(crate) fn of(name: &TableName, metadata: &TableMetadata) -> Result<Self, LakeError> {
        Self::at(name, metadata, metadata.current_schema())
    }

    /// The columns a stored table had by one of its schemas.
    pub(crate) fn at(
        name: &TableName,
        metadata: &TableMetadata,
        schema: &Schema,
    ) -> Result<Self, LakeError> {
        let unsupported = |feature: String| LakeError::Unsupported { table: name.clone(), feature };
        let damaged = |problem: String| LakeError::Corrupt { table: name.clone(), problem };
        let mut columns = Vec::new();
        let mut fields = Vec::new();
        for field in schema.as_struct().fields() {
            let (column, shape) = read_field(field).map_err(&unsupported)?;
            columns.push(column);
            fields.push(shape);
        }
        let names = match metadata.properties().get(DEFAULT_SCHEMA_NAME_MAPPING) {
            None => None,
            Some(json) => Some(serde_json::from_str(json).map_err(|e| {
                damaged(format!("property {DEFAULT_SCHEMA_NAME_MAPPING} is not a mapping: {e}"))
            })?),
        };
        let schema = match metadata.properties().get(KEY_PROPERTY).map(String::as_str) {
            None => TableSchema::keyless(name.clone(), columns, Identity::Append),
            Some("") => {
                let word = metadata.properties().get(IDENTITY_PROPERTY).map_or("", String::as_str);
                let identity = [Identity::FullRow, Identity::Append]
                    .into_iter()
                    .find(|identity| identity_word(*identity) == word)
                    .ok_or_else(|| unsupported(format!("rows identified by {word:?}")))?;
                TableSchema::keyless(name.clone(), columns, identity)
            }
            Some(key) => {
                // By the names it has now; it may have had others then.
                let then = |now| {
                    let id = metadata.current_schema().field_id_by_name(now)?;
                    schema.name_by_field_id(id)
                };
                let key: Vec<&str> = key.split(',').map(|now| then(now).unwrap_or(now)).collect();
                TableSchema::new(name.clone(), columns, &key)
            }
        };
        let schema = Arc::new(schema.map_err(|e| damaged(e.to_string()))?);
        let file_arrow =
            schema.columns().iter().zip(&fields).map(|(c, f)| file_field(c, f)).collect::<Fields>();
        let mut leaves = Vec::new();
        for (column, field) in schema.columns().iter().zip(&fields) {
            collect_leaves(&column.ty, field, false, &mut leaves);
        }
        let file_arrow = Arc::new(ArrowSchema::new(file_arrow));
        let scanned = with_views(schema.arrow());
        Ok(Self { schema, fields, file_arrow, scanned, leaves, names })
    }

    /// Name, columns and key.
    pub(crate) fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// What belongs to each column, in their order.
    pub(crate) fn fields(&self) -> &[ShapeField] {
        &self.fields
    }

    /// The columns as data files have them: with field ids at every level.
    pub(crate) fn file_arrow(&self) -> &SchemaRef {
        &self.file_arrow
    }

    /// The columns as queries get them: texts and bytes as views.
    pub(crate) fn scanned(&self) -> &SchemaRef {
        &self.scanned
    }

    /// The columns of values in a data file, in its order.
    pub(crate) fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// Names of columns in files that have no field ids.
    pub(crate) fn names(&self) -> Option<&NameMapping> {
        self.names.as_ref()
    }
}

/// Whether this program made a table. Others it only reads.
pub(crate) fn is_ours(metadata: &TableMetadata) -> bool {
    metadata.properties().contains_key(KEY_PROPERTY)
}

/// What makes metadata unreadable for the metadata library, which does not say: a later version of the
/// format, or a type it does not know.
pub(crate) fn unknown_feature(json: &serde_json::Value) -> Option<String> {
    fn unknown_type(value: &serde_json::Value) -> Option<String> {
        match value {
            serde_json::Value::Object(object) => object.iter().find_map(|(key, value)| {
                let is_type = matches!(key.as_str(), "type" | "element" | "key" | "value");
                let nested = matches!(value.as_str(), Some("struct" | "list" | "map"));
                let name = value.as_str().filter(|_| is_type && !nested);
                let Some(name) = name else { return unknown_type(value) };
                let known = serde_json::from_value::<PrimitiveType>(value.clone()).is_ok();
                (!known).then(|| format!("type {name}"))
            }),
            serde_json::Value::Array(values) => values.iter().find_map(unknown_type),
            _ => None,
        }
    }
    let version = json.get("format-version").and_then(serde_json::Value::as_u64);
    let later = version.filter(|version| *version > FormatVersion::V3 as u64);
    let later = later.map(|version| format!("format version {version}"));
    later.or_else(|| unknown_type(json.get("schemas").or_else(|| json.get("schema"))?))
}

/// The metadata library takes a default it cannot read for none, which would be another value.
pub(crate) fn check_defaults(
    table: &TableName,
    metadata: &TableMetadata,
    json: &serde_json::Value,
) -> Result<(), LakeError> {
    fn count(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Object(object) => object
                .iter()
                .map(|(key, value)| match key.as_str() {
                    "initial-default" => usize::from(!value.is_null()),
                    _ => count(value),
                })
                .sum(),
            serde_json::Value::Array(values) => values.iter().map(count).sum(),
            _ => 0,
        }
    }
    let id = metadata.current_schema_id();
    let written = json
        .get("schemas")
        .and_then(serde_json::Value::as_array)
        .and_then(|all| all.iter().find(|s| s.get("schema-id") == Some(&id.into())))
        .map_or(0, count);
    let read = metadata
        .current_schema()
        .field_id_to_fields()
        .values()
        .filter(|f| f.initial_default.is_some())
        .count();
    if written == read {
        return Ok(());
    }
    let feature = "a default value of a column that could not be read".to_owned();
    Err(LakeError::Unsupported { table: table.clone(), feature })
}

fn read_field(field: &NestedField) -> Result<(Column, ShapeField), String> {
    let mut children = Vec::new();
    let mut child = |field: &NestedFieldRef| {
        let (column, shape) = read_field(field)?;
        children.push(shape);
        Ok::<Column, String>(column)
    };
    let ty = match field.field_type.as_ref() {
        Type::Primitive(ty) => {
            column_type(ty).ok_or_else(|| format!("type {ty} in column \"{}\"", field.name))?
        }
        Type::Struct(ty) => {
            ColumnType::Struct(ty.fields().iter().map(&mut child).collect::<Result<_, _>>()?)
        }
        Type::List(ty) => ColumnType::List(Box::new(child(&ty.element_field)?)),
        Type::Map(ty) => {
            ColumnType::Map(Box::new(child(&ty.key_field)?), Box::new(child(&ty.value_field)?))
        }
    };
    let default = match &field.initial_default {
        None => None,
        Some(Literal::Primitive(value)) => Some(
            scalar_of(value, &ty)
                .ok_or_else(|| format!("a default of another type in column \"{}\"", field.name))?,
        ),
        Some(_) => return Err(format!("a nested default in column \"{}\"", field.name)),
    };
    let column = Column { name: field.name.clone(), ty, nullable: !field.required };
    Ok((column, ShapeField { id: field.id, default, children }))
}

/// A partition value of a column; none when it is not of the column's type.
pub(crate) fn constant_of(field: &NestedField, value: Option<&Literal>) -> Option<ScalarValue> {
    let ty = column_type(field.field_type.as_primitive_type()?)?;
    match value {
        None => ScalarValue::try_from(&ty.arrow()).ok(),
        Some(Literal::Primitive(value)) => scalar_of(value, &ty),
        Some(_) => None,
    }
}

/// The Arrow field of a column in a data file: as [`Column::arrow`], with field ids.
fn file_field(column: &Column, shape: &ShapeField) -> Field {
    let child = |at: usize, column: &Column| {
        shape.children.get(at).map_or_else(|| column.arrow(), |c| file_field(column, c))
    };
    let ty = match &column.ty {
        ColumnType::Struct(fields) => {
            DataType::Struct(fields.iter().enumerate().map(|(at, c)| child(at, c)).collect())
        }
        ColumnType::List(element) => DataType::List(Arc::new(child(0, element))),
        ColumnType::Map(key, value) => {
            let entry = DataType::Struct(vec![child(0, key), child(1, value)].into());
            DataType::Map(Arc::new(Field::new("key_value", entry, false)), false)
        }
        ty => ty.arrow(),
    };
    with_field_id(&Field::new(&column.name, ty, column.nullable), shape.id)
}

pub(crate) fn with_field_id(field: &Field, id: i32) -> Field {
    let id = (PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string());
    field.clone().with_metadata(HashMap::from([id]))
}

fn collect_leaves(ty: &ColumnType, shape: &ShapeField, repeated: bool, leaves: &mut Vec<Leaf>) {
    let child = |at: usize| shape.children.get(at).unwrap_or(shape);
    match ty {
        ColumnType::Struct(fields) => {
            for (at, field) in fields.iter().enumerate() {
                collect_leaves(&field.ty, child(at), repeated, leaves);
            }
        }
        ColumnType::List(element) => collect_leaves(&element.ty, child(0), true, leaves),
        ColumnType::Map(key, value) => {
            collect_leaves(&key.ty, child(0), true, leaves);
            collect_leaves(&value.ty, child(1), true, leaves);
        }
        ty => leaves.push(Leaf { id: shape.id, ty: ty.clone(), repeated }),
    }
}

/// The Iceberg type of a single value; none for a nested type and one beyond Iceberg's limits.
pub(crate) fn primitive_type(ty: &ColumnType) -> Option<PrimitiveType> {
    Some(match ty {
        ColumnType::Boolean => PrimitiveType::Boolean,
        ColumnType::Int32 => PrimitiveType::Int,
        ColumnType::Int64 => PrimitiveType::Long,
        ColumnType::Float32 => PrimitiveType::Float,
        ColumnType::Float64 => PrimitiveType::Double,
        ColumnType::Decimal { precision, scale } => {
            if !(1..=38).contains(precision) || scale > precision {
                return None;
            }
            PrimitiveType::Decimal { precision: (*precision).into(), scale: (*scale).into() }
        }
        ColumnType::Utf8 => PrimitiveType::String,
        ColumnType::Date => PrimitiveType::Date,
        ColumnType::Time => PrimitiveType::Time,
        ColumnType::TimestampMicros => PrimitiveType::Timestamptz,
        ColumnType::LocalTimestampMicros => PrimitiveType::Timestamp,
        ColumnType::Uuid => PrimitiveType::Uuid,
        ColumnType::Fixed(length) if i32::try_from(*length).is_ok_and(|l| l > 0) => {
            PrimitiveType::Fixed((*length).into())
        }
        ColumnType::Binary => PrimitiveType::Binary,
        _ => return None,
    })
}

fn column_type(ty: &PrimitiveType) -> Option<ColumnType> {
    Some(match ty {
        PrimitiveType::Boolean => ColumnType::Boolean,
        PrimitiveType::Int => ColumnType::Int32,
        PrimitiveType::Long => ColumnType::Int64,
        PrimitiveType::Float => ColumnType::Float32,
        PrimitiveType::Double => ColumnType::Float64,
        PrimitiveType::Decimal { precision, scale } => ColumnType::Decimal {
            precision: u8::try_from(*precision).ok().filter(|p| *p <= 38)?,
            scale: u8::try_from(*scale).ok().filter(|s| u32::from(*s) <= *precision)?,
        },
        PrimitiveType::String => ColumnType::Utf8,
        PrimitiveType::Date => ColumnType::Date,
        PrimitiveType::Time => ColumnType::Time,
        PrimitiveType::Timestamptz => ColumnType::TimestampMicros,
        PrimitiveType::Timestamp => ColumnType::LocalTimestampMicros,
        PrimitiveType::Uuid => ColumnType::Uuid,
        PrimitiveType::Fixed(length) => {
            ColumnType::Fixed(u32::try_from(*length).ok().filter(|l| i32::try_from(*l).is_ok())?)
        }
        PrimitiveType::Binary => ColumnType::Binary,
        PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => return None,
    })
}

/// The Iceberg type of a column, its nested fields numbered on from `next`.
pub(crate) fn iceberg_type(column: &Column, next: &mut dyn FnMut() -> i32) -> Result<Type, String> {
    let named = |child: &Column, expected: &str| {
        let wrong = || {
            let (child, column) = (&child.name, &column.name);
            format!("a part of column \"{column}\" is called \"{child}\" and not \"{expected}\"")
        };
        (child.name == expected).then_some(()).ok_or_else(wrong)
    };
    Ok(match &column.ty {
        ColumnType::Struct(fields) => {
            if fields.is_empty() {
                return Err(format!("column \"{}\" is a struct without fields", column.name));
            }
            // All fields of one level before those inside them, as other writers number them.
            let ids: Vec<i32> = fields.iter().map(|_| next()).collect();
            let mut typed: Vec<NestedFieldRef> = Vec::with_capacity(fields.len());
            for (field, id) in fields.iter().zip(ids) {
                if typed.iter().any(|f| f.name == field.name) {
                    let (field, column) = (&field.name, &column.name);
                    return Err(format!("field \"{field}\" of column \"{column}\" occurs twice"));
                }
                let ty = iceberg_type(field, next)?;
                typed.push(Arc::new(NestedField::new(id, &field.name, ty, !field.nullable)));
            }
            Type::Struct(StructType::new(typed))
        }
        ColumnType::List(element) => {
            named(element, "element")?;
            let id = next();
            let ty = iceberg_type(element, next)?;
            Type::List(ListType::new(Arc::new(NestedField::list_element(
                id,
                ty,
                !element.nullable,
            ))))
        }
        ColumnType::Map(key, value) => {
            named(key, "key")?;
            named(value, "value")?;
            if key.nullable {
                return Err(format!("the keys of column \"{}\" are nullable", column.name));
            }
            let (key_id, value_id) = (next(), next());
            let key = NestedField::map_key_element(key_id, iceberg_type(key, next)?);
            let required = !value.nullable;
            let value =
                NestedField::map_value_element(value_id, iceberg_type(value, next)?, required);
            Type::Map(MapType::new(Arc::new(key), Arc::new(value)))
        }
        ty => {
            Type::Primitive(primitive_type(ty).ok_or_else(|| {
                format!("column \"{}\" has a type tables cannot store", column.name)
            })?)
        }
    })
}

/// The Iceberg schema of a new table.
pub(crate) fn iceberg_schema(schema: &TableSchema) -> Result<Schema, LakeError> {
    let mut last = i32::try_from(schema.columns().len()).unwrap_or(i32::MAX);
    let mut fields = Vec::with_capacity(schema.columns().len());
    for (id, column) in (1..).zip(schema.columns()) {
        let mut next = || {
            last += 1;
            last
        };
        let ty = iceberg_type(column, &mut next)
            .map_err(|problem| LakeError::Schema { table: schema.name().clone(), problem })?;
        fields.push(Arc::new(NestedField::new(id, &column.name, ty, !column.nullable)));
    }
    build_schema(schema.name(), fields, schema.key_indices().iter().map(|&k| columns_id(k)))
}

fn columns_id(at: usize) -> i32 {
    i32::try_from(at).map_or(i32::MAX, |at| at + 1)
}

/// A schema of these fields, identified by the columns of these ids.
pub(crate) fn build_schema(
    table: &TableName,
    fields: Vec<NestedFieldRef>,
    key: impl Iterator<Item = i32>,
) -> Result<Schema, LakeError> {
    let floating = |id: &i32| {
        let field = fields.iter().find(|f| f.id == *id);
        field.is_some_and(|f| {
            f.field_type
                .as_primitive_type()
                .is_some_and(|ty| matches!(ty, PrimitiveType::Float | PrimitiveType::Double))
        })
    };
    // Iceberg does not let floating point identify a row; the key property still names it.
    let key: Vec<i32> = key.filter(|id| !floating(id)).collect();
    Schema::builder()
        .with_fields(fields)
        .with_identifier_field_ids(key)
        .build()
        .map_err(metadata_error("build the schema", table))
}

/// Wraps an error of the metadata library.
pub(crate) fn metadata_error(
    doing: &'static str,
    table: &TableName,
) -> impl FnOnce(iceberg::Error) -> LakeError {
    let table = table.clone();
    move |source| LakeError::Metadata { doing, table, source: Box::new(source) }
}
