//! The next columns of a table: what may change, and what keeps its field id.

use std::sync::Arc;

use datafusion::scalar::ScalarValue;
use iceberg::spec::{
    FormatVersion, ListType, Literal, MapType, NestedField, NestedFieldRef, PrimitiveLiteral,
    PrimitiveType, Schema, StructType, TableMetadata, Type,
};
use medlake_contract::{Column, ColumnType, TableSchema};

use crate::{
    alteration::{Alteration, ColumnPath, Place},
    format::{
        bounds::literal_of,
        partition::MICROS_PER_DAY,
        schema::{iceberg_type, primitive_type},
    },
};

/// Gives out field ids that no column of the table ever had.
pub(crate) struct Ids {
    last: i32,
    version: FormatVersion,
}

impl Ids {
    pub(crate) fn of(metadata: &TableMetadata) -> Self {
        Self { last: metadata.last_column_id(), version: metadata.format_version() }
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
            let wider = primitive_type(ty).filter(|ty| widens(before, ty, ids.version));
            let wider = wider.ok_or_else(|| {
                format!("column \"{path}\" is of type {before} and cannot become {:?}", column.ty)
            })?;
            let mut field = NestedField { required: !column.nullable, ..field.clone() };
            widen(&mut field, wider);
            return Ok(field);
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
/// the new one: the promotions of the format.
fn widens(before: &PrimitiveType, after: &PrimitiveType, version: FormatVersion) -> bool {
    use PrimitiveType as P;
    before == after
        || match (before, after) {
            (P::Int, P::Long) | (P::Float, P::Double) => true,
            (P::Date, P::Timestamp) => version >= FormatVersion::V3,
            (P::Decimal { precision: old, scale: old_scale }, P::Decimal { precision, scale }) => {
                precision >= old && scale == old_scale
            }
            _ => false,
        }
}

/// Gives a field a wider type, and its defaults with it.
fn widen(field: &mut NestedField, to: PrimitiveType) {
    for default in [&mut field.initial_default, &mut field.write_default].into_iter().flatten() {
        if let Some(wider) = widened(default, &to) {
            *default = wider;
        }
    }
    *field.field_type = Type::Primitive(to);
}

/// A value in the type its column was widened to; none when it is of that type already.
pub(crate) fn widened(value: &Literal, to: &PrimitiveType) -> Option<Literal> {
    Some(match (value, to) {
        (Literal::Primitive(PrimitiveLiteral::Int(n)), PrimitiveType::Long) => Literal::long(*n),
        (Literal::Primitive(PrimitiveLiteral::Int(day)), PrimitiveType::Timestamp) => {
            Literal::long(i64::from(*day) * MICROS_PER_DAY)
        }
        (Literal::Primitive(PrimitiveLiteral::Float(n)), PrimitiveType::Double) => {
            Literal::double(n.into_inner())
        }
        _ => return None,
    })
}

/// The fields of a table after these changes, one after the other.
///
/// # Errors
/// Which change cannot be made and why, in words.
pub(crate) fn altered(
    before: &Schema,
    ids: &mut Ids,
    alterations: &[Alteration],
) -> Result<Vec<NestedFieldRef>, String> {
    let mut fields = before.as_struct().fields().to_vec();
    for alteration in alterations {
        match alteration {
            Alteration::Add { inside: None, column, default, place } => {
                add(&mut fields, ids, column, default.as_ref(), place)?;
            }
            Alteration::Add { inside: Some(path), column, default, place } => {
                let mut found = |field: &mut NestedField| match field.field_type.as_ref() {
                    Type::Struct(ty) => {
                        let mut fields = ty.fields().to_vec();
                        add(&mut fields, ids, column, default.as_ref(), place)?;
                        *field.field_type = Type::Struct(StructType::new(fields));
                        Ok(())
                    }
                    _ => Err(format!("\"{}\" is not a struct", field.name)),
                };
                change(&mut fields, path.names(), &mut found)?;
            }
            Alteration::Drop(path) => neighbours(&mut fields, path, &mut |fields, at| {
                if fields.len() == 1 {
                    return Err("it is the last field there is".to_owned());
                }
                fields.remove(at);
                Ok(())
            })?,
            Alteration::Rename { column, to } => {
                neighbours(&mut fields, column, &mut |fields, at| {
                    if to.is_empty() {
                        return Err("a name cannot be empty".to_owned());
                    }
                    if fields.iter().any(|f| f.name == *to) {
                        return Err(format!("there is a column \"{to}\" already"));
                    }
                    fields[at] =
                        Arc::new(NestedField { name: to.clone(), ..fields[at].as_ref().clone() });
                    Ok(())
                })?;
            }
            Alteration::Move { column, to } => {
                neighbours(&mut fields, column, &mut |fields, at| {
                    let field = fields.remove(at);
                    let to = position(fields, to)?;
                    fields.insert(to, field);
                    Ok(())
                })?;
            }
            Alteration::Widen { column, to } => {
                let version = ids.version;
                let mut found = |field: &mut NestedField| {
                    let wider = match field.field_type.as_ref() {
                        Type::Primitive(before) => {
                            primitive_type(to).filter(|after| widens(before, after, version))
                        }
                        _ => None,
                    };
                    let is = &field.field_type;
                    let wider = wider
                        .ok_or_else(|| format!("it is of type {is} and cannot become {to:?}"))?;
                    widen(field, wider);
                    Ok(())
                };
                change(&mut fields, column.names(), &mut found)?;
            }
            Alteration::MakeNullable(column) => {
                change(&mut fields, column.names(), &mut |field| {
                    field.required = false;
                    Ok(())
                })?;
            }
            Alteration::Describe { column, doc } => {
                change(&mut fields, column.names(), &mut |field| {
                    field.doc.clone_from(doc);
                    Ok(())
                })?;
            }
        }
    }
    Ok(fields)
}

fn add(
    fields: &mut Vec<NestedFieldRef>,
    ids: &mut Ids,
    column: &Column,
    default: Option<&ScalarValue>,
    place: &Place,
) -> Result<(), String> {
    if column.name.is_empty() {
        return Err("a name cannot be empty".to_owned());
    }
    if fields.iter().any(|f| f.name == column.name) {
        return Err(format!("there is a column \"{}\" already", column.name));
    }
    let at = position(fields, place)?;
    let mut field = new_field(ids, column)?;
    match default.filter(|value| !value.is_null()) {
        None if column.nullable => {}
        None => return Err(format!("required column \"{}\" needs a default", column.name)),
        Some(value) if !is_writable(value) => {
            return Err(format!(
                "the default of column \"{}\" is a time that metadata cannot be written with: it must be \
                 within 200,000 years of 1970, and on a full second if it is before",
                column.name
            ));
        }
        Some(_) if ids.version < FormatVersion::V3 => {
            return Err(format!(
                "a default for column \"{}\" takes format version 3; the table has version {}",
                column.name, ids.version as u8
            ));
        }
        Some(value) => {
            let literal = literal_of(value, &column.ty).ok_or_else(|| {
                format!("the default of column \"{}\" is not of its type", column.name)
            })?;
            let literal = Literal::Primitive(literal);
            field = field.with_initial_default(literal.clone()).with_write_default(literal);
        }
    }
    fields.insert(at, Arc::new(field));
    Ok(())
}

/// Whether the metadata library can write a value: it counts the parts of a second from 1970 on only,
/// and knows no calendar beyond the year 262,142.
fn is_writable(value: &ScalarValue) -> bool {
    const MICROS_PER_SECOND: i64 = 1_000_000;
    const SECONDS_PER_DAY: i64 = 86_400;
    const MOST_DAYS: i64 = 200_000 * 365;
    let most_micros = MOST_DAYS * SECONDS_PER_DAY * MICROS_PER_SECOND;
    match value {
        ScalarValue::Date32(Some(days)) => i64::from(*days).abs() <= MOST_DAYS,
        ScalarValue::Time64Microsecond(Some(micros)) => {
            (0..SECONDS_PER_DAY * MICROS_PER_SECOND).contains(micros)
        }
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => {
            (-most_micros..=most_micros).contains(micros)
                && (zone.is_none() || *micros >= 0 || micros % MICROS_PER_SECOND == 0)
        }
        _ => true,
    }
}

fn position(fields: &[NestedFieldRef], place: &Place) -> Result<usize, String> {
    let of = |name: &String| {
        let at = fields.iter().position(|f| f.name == *name);
        at.ok_or_else(|| format!("there is no column \"{name}\" beside it"))
    };
    Ok(match place {
        Place::First => 0,
        Place::Last => fields.len(),
        Place::Before(name) => of(name)?,
        Place::After(name) => of(name)? + 1,
    })
}

/// Changes the field at a path.
fn change(
    fields: &mut [NestedFieldRef],
    path: &[String],
    found: &mut dyn FnMut(&mut NestedField) -> Result<(), String>,
) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else {
        return Err("no column is named".to_owned());
    };
    let field = fields.iter_mut().find(|f| f.name == *name);
    let field = field.ok_or_else(|| format!("there is no column \"{name}\""))?;
    let field = Arc::make_mut(field);
    let within = |problem: String| format!("column \"{name}\": {problem}");
    if rest.is_empty() {
        return found(field).map_err(within);
    }
    let mut part = |field: &NestedFieldRef| {
        let mut part = [Arc::clone(field)];
        if rest.first() == Some(&field.name) {
            change(&mut part, rest, found)?;
        }
        let [part] = part;
        Ok::<NestedFieldRef, String>(part)
    };
    let missing = || within(format!("there is no \"{}\" inside", rest[0]));
    let ty = match field.field_type.as_ref() {
        Type::Struct(ty) => {
            let mut fields = ty.fields().to_vec();
            change(&mut fields, rest, found).map_err(within)?;
            Type::Struct(StructType::new(fields))
        }
        Type::List(ty) if rest[0] == ty.element_field.name => {
            Type::List(ListType::new(part(&ty.element_field).map_err(within)?))
        }
        Type::Map(ty) if [&ty.key_field.name, &ty.value_field.name].contains(&&rest[0]) => {
            if rest[0] == ty.key_field.name {
                // Two keys that differ could become the same.
                return Err(within("the key of a map does not change".to_owned()));
            }
            let key = Arc::clone(&ty.key_field);
            Type::Map(MapType::new(key, part(&ty.value_field).map_err(within)?))
        }
        _ => return Err(missing()),
    };
    *field.field_type = ty;
    Ok(())
}

/// A change of fields that stand together, given the place of one of them.
type Among<'a> = &'a mut dyn FnMut(&mut Vec<NestedFieldRef>, usize) -> Result<(), String>;

/// Changes the fields among which the one at a path is; those of the table or of a struct.
fn neighbours(
    fields: &mut Vec<NestedFieldRef>,
    path: &ColumnPath,
    found: Among<'_>,
) -> Result<(), String> {
    let Some((name, outer)) = path.names().split_last() else {
        return Err("no column is named".to_owned());
    };
    let mut among = |fields: &mut Vec<NestedFieldRef>| {
        let at = fields.iter().position(|f| f.name == *name);
        let at = at.ok_or_else(|| format!("there is no column \"{name}\""))?;
        found(fields, at).map_err(|problem| format!("column \"{name}\": {problem}"))
    };
    if outer.is_empty() {
        return among(fields);
    }
    change(fields, outer, &mut |field| match field.field_type.as_ref() {
        Type::Struct(ty) => {
            let mut fields = ty.fields().to_vec();
            among(&mut fields)?;
            *field.field_type = Type::Struct(StructType::new(fields));
            Ok(())
        }
        _ => Err(format!("\"{name}\" is part of no struct")),
    })
}
