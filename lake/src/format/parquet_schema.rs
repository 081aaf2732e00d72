//! The Parquet schema of data files.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use medlake_contract::ColumnType;
use parquet::{
    arrow::ArrowSchemaConverter,
    basic::LogicalType,
    errors::ParquetError,
    schema::types::{SchemaDescriptor, Type, TypePtr},
};

use crate::format::schema::Leaf;

/// The Parquet schema of a data file: as Arrow's, with the UUIDs called UUIDs, which the format
/// demands and Arrow's types cannot say.
pub(crate) fn parquet_schema(
    arrow: &SchemaRef,
    leaves: &[Leaf],
) -> Result<SchemaDescriptor, ParquetError> {
    fn marked(ty: &TypePtr, uuids: &[i32]) -> Result<TypePtr, ParquetError> {
        let info = ty.get_basic_info();
        let id = info.has_id().then(|| info.id());
        match ty.as_ref() {
            Type::PrimitiveType { physical_type, type_length, .. } => {
                if !id.is_some_and(|id| uuids.contains(&id)) {
                    return Ok(Arc::clone(ty));
                }
                Type::primitive_type_builder(ty.name(), *physical_type)
                    .with_repetition(info.repetition())
                    .with_length(*type_length)
                    .with_logical_type(Some(LogicalType::Uuid))
                    .with_id(id)
                    .build()
                    .map(Arc::new)
            }
            Type::GroupType { fields, .. } => {
                let fields =
                    fields.iter().map(|f| marked(f, uuids)).collect::<Result<Vec<_>, _>>()?;
                let mut group = Type::group_type_builder(ty.name())
                    .with_logical_type(info.logical_type_ref().cloned())
                    .with_converted_type(info.converted_type())
                    .with_id(id)
                    .with_fields(fields);
                if info.has_repetition() {
                    group = group.with_repetition(info.repetition());
                }
                group.build().map(Arc::new)
            }
        }
    }
    let schema = ArrowSchemaConverter::new().convert(arrow)?;
    let uuids: Vec<i32> =
        leaves.iter().filter(|l| l.ty == ColumnType::Uuid).map(|l| l.id).collect();
    if uuids.is_empty() {
        return Ok(schema);
    }
    Ok(SchemaDescriptor::new(marked(&schema.root_schema_ptr(), &uuids)?))
}
