//! The next columns of a table: what may change, and what keeps its field id.

use std::sync::Arc;

use iceberg::spec::{
    ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type,
};
use medlake_contract::{Column, ColumnType, TableSchema};

use crate::format::schema::{iceberg_type, primitive_type};

/// Gives out field ids that no column of the table ever had.
pub(crate) struct Ids {
    last: i32,
}

impl Ids {
    pub(crate) fn after(last_column_id: i32) -> Self {
        Self { last: last_column_id }
    }

    fn next(&mut self) -> i32 {
        self.last += 1;
        self.last
    }
}

/// The fields of a table that is declared with these columns from now on. Columns are matched by
/// name: one that is no longer declared is dropped (its values stay in old files, unread, and do not
/// come back with a new column of its name), a new one is added where it stands and null in all rows
/// there are, a changed one must be a wider form of what it was.
///
/// # Errors
/// What is incompatible, in words.
pub(crate) fn declared(
    before: &Schema,
    ids: &mut Ids,
    schema: &TableSchema,
) -> Result<Vec<NestedFieldRef>, String> {
    fields(before.as_struct().fields(), ids, schema.columns(), "")
}

fn fields(
    before: &[NestedFieldRef],
    ids: &mut Ids,
    columns: &[Column],
    path: &str,
) -> Result<Vec<NestedFieldRef>, String> {
    columns
        .iter()
        .map(|column| {
            let path = format!("{path}{}", column.name);
            match before.iter().find(|f| f.name == column.name) {
                Some(field) => Ok(Arc::new(changed(field, ids, column, &path)?)),
                None if column.nullable => Ok(Arc::new(new_field(ids, column)?)),
                None => Err(format!("new column \"{path}\" must be nullable")),
            }
        })
        .collect()
}

fn new_field(ids: &mut Ids, column: &Column) -> Result<NestedField, String> {
    let id = ids.next();
    let ty = iceberg_type(column, &mut || ids.next())?;
    Ok(NestedField::new(id, &column.name, ty, !column.nullable))
}

/// A field as it is declared now.
fn changed(
    field: &NestedField,
    ids: &mut Ids,
    column: &Column,
    path: &str,
) -> Result<NestedField, String> {
    if !column.nullable && !field.required {
        return Err(format!("column \"{path}\" was nullable and may have nulls in stored rows"));
    }
    let ty = match (field.field_type.as_ref(), &column.ty) {
        (Type::Struct(before), ColumnType::Struct(columns)) => {
            let inside = fields(before.fields(), ids, columns, &format!("{path}."))?;
            if inside.is_empty() {
                return Err(format!("column \"{path}\" is a struct without fields"));
            }
            Type::Struct(StructType::new(inside))
        }
        (Type::List(before), ColumnType::List(element)) => {
            Type::List(ListType::new(Arc::new(part(&before.element_field, ids, element, path)?)))
        }
        (Type::Map(before), ColumnType::Map(key, value)) => Type::Map(MapType::new(
            Arc::new(part(&before.key_field, ids, key, path)?),
            Arc::new(part(&before.value_field, ids, value, path)?),
        )),
        (Type::Primitive(before), ty) => {
            let wider = primitive_type(ty).filter(|ty| widens(before, ty));
            Type::Primitive(wider.ok_or_else(|| {
                format!("column \"{path}\" is of type {before} and cannot become {:?}", column.ty)
            })?)
        }
        (before, _) => {
            return Err(format!("column \"{path}\" is of type {before} and cannot become another"));
        }
    };
    Ok(NestedField { required: !column.nullable, field_type: Box::new(ty), ..field.clone() })
}

/// The element of a list, or the key or value of a map: its name is given by the format.
fn part(
    field: &NestedField,
    ids: &mut Ids,
    column: &Column,
    path: &str,
) -> Result<NestedField, String> {
    let path = format!("{path}.{}", field.name);
    if column.name != field.name {
        return Err(format!("column \"{path}\" is declared as \"{}\"", column.name));
    }
    changed(field, ids, column, &path)
}

/// Whether every value of one type is one of the other, so that files of the old type can be read as
/// the new one: the promotions of the format, all versions.
pub(crate) fn widens(before: &PrimitiveType, after: &PrimitiveType) -> bool {
    use PrimitiveType as P;
    before == after
        || match (before, after) {
            (P::Int, P::Long) | (P::Float, P::Double) => true,
            (P::Decimal { precision: old, scale: old_scale }, P::Decimal { precision, scale }) => {
                precision >= old && scale == old_scale
            }
            _ => false,
        }
}
