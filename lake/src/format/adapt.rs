//! Rows of a file as rows of the table: the columns found by field id, whatever they were called,
//! wherever they stood and however narrow they were when the file was written.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::scalar::ScalarValue;
use iceberg::spec::MappedField;
use medlake_contract::{Column, ColumnType};
use parquet::{
    arrow::{PARQUET_FIELD_ID_META_KEY, parquet_to_arrow_schema},
    errors::ParquetError,
    file::metadata::ParquetMetaData,
};

use crate::{
    error::LakeError,
    format::schema::{Shape, ShapeField, with_field_id},
};

/// The Arrow schema of a Parquet file by its own types, with field ids. Its readers must skip the
/// Arrow schema a writer may have left in it, which has other types and hides the ids.
pub(crate) fn file_schema(footer: &ParquetMetaData) -> Result<SchemaRef, ParquetError> {
    parquet_to_arrow_schema(footer.file_metadata().schema_descr(), None).map(Arc::new)
}

/// The columns with texts and bytes as views, in which a reader leaves values where it decoded them.
/// What is inside nested columns stays as it is.
pub(crate) fn with_views(columns: &Schema) -> SchemaRef {
    let fields = columns.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        DataType::Binary => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), columns.metadata().clone()))
}

/// Values of columns that all rows of a file have in common and the file may leave out, by field id:
/// those it is partitioned by.
pub(crate) type Constants = HashMap<i32, ScalarValue>;

/// How batches of one file become batches of the table. Made once per file and projection.
#[derive(Debug)]
pub(crate) struct Adapter {
    leaves: Vec<usize>,
    sources: Vec<Source>,
    origins: Vec<Origin>,
    target: SchemaRef,
}

/// Where a column comes from, for pruning inside a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Origin {
    /// What the file says of this Parquet leaf it says of the column; with `same` unset in a narrower
    /// type, `ty`.
    Leaf { leaf: usize, ty: DataType, same: bool },
    /// The same value in every row.
    Constant(ScalarValue),
    /// Several leaves.
    Nested,
}

/// Where a column, or a field inside one, comes from.
#[derive(Debug)]
enum Source {
    /// The child at this place, changed.
    At(usize, Change),
    /// Not in the file.
    Constant(ScalarValue, DataType),
}

/// How an array changes.
#[derive(Debug)]
enum Change {
    Nothing,
    Cast(DataType),
    /// The same exact numbers, said to have more digits.
    Digits(u8, i8),
    Struct(Fields, Vec<Source>),
    List(FieldRef, Box<Change>),
    Map(FieldRef, Box<Change>, Box<Change>),
}

impl Adapter {
    /// `wanted` are places in the columns of `shape`, in the order the outcome has them, in the types
    /// of `columns`: the table's, or the same [`with_views`]. `file` is what [`file_schema`] gives,
    /// with views or without.
    pub(crate) fn new(
        shape: &Shape,
        columns: &SchemaRef,
        wanted: &[usize],
        file: &SchemaRef,
        constants: &Constants,
    ) -> Result<Self, LakeError> {
        let file = match shape.names() {
            _ if has_ids(file.fields()) => Arc::clone(file),
            Some(names) => {
                let names: Vec<&MappedField> = names.fields().iter().collect();
                Arc::new(Schema::new(mapped(file.fields(), &names)))
            }
            None if file.fields().is_empty() => Arc::clone(file),
            None => {
                return Err(LakeError::Unsupported {
                    table: shape.schema().name().clone(),
                    feature: "a data file without field ids, and no name mapping".to_owned(),
                });
            }
        };
        Self::build(shape, columns, wanted, &file, constants, true)
    }

    /// From whole batches of a table as it was to batches of the table as it is.
    pub(crate) fn between(before: &Shape, after: &Shape) -> Result<Self, LakeError> {
        let all: Vec<usize> = (0..after.fields().len()).collect();
        let columns = after.schema().arrow();
        Self::build(after, columns, &all, before.file_arrow(), &Constants::new(), false)
    }

    fn build(
        shape: &Shape,
        columns: &SchemaRef,
        wanted: &[usize],
        file: &SchemaRef,
        constants: &Constants,
        projected: bool,
    ) -> Result<Self, LakeError> {
        let table = shape.schema();
        let part = |at: &usize| {
            let (column, shape) = table.columns().get(*at).zip(shape.fields().get(*at))?;
            Some(Wanted::new(column, shape, columns.fields().get(*at)?))
        };
        let parts: Option<Vec<Wanted<'_>>> = wanted.iter().map(part).collect();
        let (Some(parts), Ok(target)) = (parts, columns.project(wanted)) else {
            return Err(LakeError::Rows {
                table: table.name().clone(),
                problem: format!("columns {wanted:?} are asked for"),
            });
        };
        let mut matching = Matching { constants, projected, leaves: Vec::new() };
        let (sources, origins) = matching.fields(&parts, file.fields(), 0).map_err(|problem| {
            let feature = format!("a data file in which {problem}");
            LakeError::Unsupported { table: table.name().clone(), feature }
        })?;
        let mut leaves = matching.leaves;
        leaves.sort_unstable();
        leaves.dedup();
        Ok(Self { leaves, sources, origins, target: Arc::new(target) })
    }

    /// The Parquet leaves to read, ascending. None at all when every column is a constant; batches
    /// then have a number of rows and nothing else.
    pub(crate) fn leaves(&self) -> &[usize] {
        &self.leaves
    }

    /// Where column `at` of the outcome comes from.
    pub(crate) fn origin(&self, at: usize) -> Option<&Origin> {
        self.origins.get(at)
    }

    /// A batch of the file, with exactly [`Self::leaves`], as a batch of the table.
    pub(crate) fn adapt(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let arrays = self
            .sources
            .iter()
            .map(|source| source.array(batch.columns(), batch.num_rows()))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.target), arrays, &rows)
    }
}

/// A column, or a field inside one, in the Arrow type it is wanted in.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    column: &'a Column,
    shape: &'a ShapeField,
    ty: &'a DataType,
}

impl<'a> Wanted<'a> {
    fn new(column: &'a Column, shape: &'a ShapeField, field: &'a Field) -> Self {
        Self { column, shape, ty: field.data_type() }
    }
}

/// Columns of a table looked up in a file.
struct Matching<'a> {
    constants: &'a Constants,
    /// Whether batches have only the leaves that are asked for.
    projected: bool,
    leaves: Vec<usize>,
}

impl Matching<'_> {
    /// Columns, or the fields of a struct, in those of the file, whose first leaf is `first_leaf`.
    fn fields(
        &mut self,
        wanted: &[Wanted<'_>],
        file: &Fields,
        first_leaf: usize,
    ) -> Result<(Vec<Source>, Vec<Origin>), String> {
        let mut first = first_leaf;
        let starts: Vec<usize> = file
            .iter()
            .map(|field| {
                let start = first;
                first += leaf_count(field.data_type());
                start
            })
            .collect();
        let found: Vec<Option<usize>> = wanted
            .iter()
            .map(|wanted| file.iter().position(|f| field_id(f) == Some(wanted.shape.id)))
            .collect();
        let mut read: Vec<usize> = found.iter().flatten().copied().collect();
        read.sort_unstable();
        read.dedup();
        let mut sources = Vec::with_capacity(wanted.len());
        let mut origins = Vec::with_capacity(wanted.len());
        for (wanted, found) in wanted.iter().zip(found) {
            let Some(at) = found else {
                let value = self.constant(*wanted)?;
                sources.push(Source::Constant(value.clone(), wanted.ty.clone()));
                origins.push(Origin::Constant(value));
                continue;
            };
            let change = self.change(*wanted, &file[at], starts[at])?;
            let ty = file[at].data_type().clone();
            origins.push(match change {
                Change::Struct(..) | Change::List(..) | Change::Map(..) => Origin::Nested,
                Change::Nothing => Origin::Leaf { leaf: starts[at], ty, same: true },
                Change::Cast(_) | Change::Digits(..) => {
                    Origin::Leaf { leaf: starts[at], ty, same: false }
                }
            });
            let place = if self.projected { read.partition_point(|r| *r < at) } else { at };
            sources.push(Source::At(place, change));
        }
        Ok((sources, origins))
    }

    /// The value of a column the file does not have.
    fn constant(&self, wanted: Wanted<'_>) -> Result<ScalarValue, String> {
        let Wanted { column, shape, ty } = wanted;
        let known = self.constants.get(&shape.id).or(shape.default.as_ref());
        if known.is_none() && !column.nullable {
            return Err(format!("required column \"{}\" is missing", column.name));
        }
        known
            .map_or_else(|| ScalarValue::try_from(ty), |value| value.cast_to(ty))
            .map_err(|e| format!("column \"{}\" is missing: {e}", column.name))
    }

    fn change(&mut self, wanted: Wanted<'_>, file: &Field, leaf: usize) -> Result<Change, String> {
        let Wanted { column, shape, ty } = wanted;
        let other = || {
            let (name, is) = (&column.name, file.data_type());
            Err(format!("column \"{name}\" is of type {is} and cannot be read as {ty}"))
        };
        let part = |at: usize| shape.children.get(at).unwrap_or(shape);
        match (&column.ty, ty, file.data_type()) {
            (ColumnType::Struct(columns), DataType::Struct(types), DataType::Struct(fields)) => {
                let wanted: Vec<Wanted<'_>> = columns
                    .iter()
                    .zip(types)
                    .enumerate()
                    .map(|(at, (column, ty))| Wanted::new(column, part(at), ty))
                    .collect();
                let before = self.leaves.len();
                let (sources, _) = self.fields(&wanted, fields, leaf)?;
                if self.leaves.len() == before {
                    // Which rows have the struct at all is known from any leaf of it.
                    self.leaves.push(leaf);
                }
                Ok(Change::Struct(types.clone(), sources))
            }
            (ColumnType::List(element), DataType::List(ty), DataType::List(field)) => {
                let change = self.change(Wanted::new(element, part(0), ty), field, leaf)?;
                Ok(Change::List(Arc::clone(ty), Box::new(change)))
            }
            (ColumnType::Map(key, value), DataType::Map(ty, _), DataType::Map(entries, _)) => {
                let (Some([key_ty, value_ty]), Some([key_field, value_field])) =
                    (pair(ty), pair(entries))
                else {
                    return other();
                };
                let value_leaf = leaf + leaf_count(key_field.data_type());
                let key = Wanted::new(key, part(0), key_ty);
                let value = Wanted::new(value, part(1), value_ty);
                let key_change = self.change(key, key_field, leaf)?;
                let value_change = self.change(value, value_field, value_leaf)?;
                Ok(Change::Map(Arc::clone(ty), Box::new(key_change), Box::new(value_change)))
            }
            (nested, ..) if nested.is_nested() => other(),
            (values, ty, stored) => {
                let Some(change) = value_change(values, ty, stored) else { return other() };
                self.leaves.push(leaf);
                Ok(change)
            }
        }
    }
}

/// Key and value of a map's entries.
fn pair(entries: &Field) -> Option<&[FieldRef; 2]> {
    let DataType::Struct(fields) = entries.data_type() else { return None };
    fields[..].try_into().ok()
}

/// How values of a stored type become values of a column in an Arrow type: the promotions the format
/// allows, and other encodings of the same values. None when they are other values.
fn value_change(column: &ColumnType, ty: &DataType, stored: &DataType) -> Option<Change> {
    use DataType as D;
    if stored == ty {
        return Some(Change::Nothing);
    }
    let cast = match (column, stored) {
        (ColumnType::Decimal { precision, scale }, D::Decimal128(digits, after))
            if i8::try_from(*scale) == Ok(*after) && digits <= precision =>
        {
            return Some(Change::Digits(*precision, *after));
        }
        (ColumnType::Int32, D::Int8 | D::Int16 | D::UInt8 | D::UInt16)
        | (ColumnType::Int64, D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 | D::UInt32)
        | (ColumnType::Float64, D::Float32)
        | (
            ColumnType::Utf8,
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Binary | D::LargeBinary | D::BinaryView,
        )
        | (ColumnType::Binary, D::Binary | D::LargeBinary | D::BinaryView)
        | (ColumnType::Time, D::Time32(_))
        | (ColumnType::TimestampMicros, D::Timestamp(_, Some(_)))
        | (ColumnType::LocalTimestampMicros, D::Timestamp(_, None) | D::Date32) => true,
        // The old 96-bit timestamps are instants that do not say so.
        (ColumnType::TimestampMicros, D::Timestamp(TimeUnit::Nanosecond, None)) => true,
        _ => false,
    };
    cast.then(|| Change::Cast(ty.clone()))
}

impl Source {
    fn array(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::At(at, change) => match columns.get(*at) {
                Some(array) => change.apply(array),
                None => Err(unexpected(&format!("has no column {at}"))),
            },
            Self::Constant(value, ty) if value.is_null() => Ok(new_null_array(ty, rows)),
            Self::Constant(value, _) => {
                value.to_array_of_size(rows).map_err(|e| ArrowError::ExternalError(Box::new(e)))
            }
        }
    }
}

impl Change {
    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Nothing => Arc::clone(array),
            Self::Cast(ty) => {
                let checked = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(array, ty, &checked)?
            }
            Self::Digits(precision, scale) => {
                let array = array
                    .as_primitive_opt::<arrow::datatypes::Decimal128Type>()
                    .ok_or_else(|| unexpected("has other values than decimals"))?;
                Arc::new(array.clone().with_precision_and_scale(*precision, *scale)?)
            }
            Self::Struct(fields, sources) => {
                let array = array.as_struct_opt().ok_or_else(|| unexpected("has no struct"))?;
                let columns = sources
                    .iter()
                    .map(|source| source.array(array.columns(), array.len()))
                    .collect::<Result<Vec<_>, _>>()?;
                let nulls = array.nulls().cloned();
                Arc::new(StructArray::try_new_with_length(
                    fields.clone(),
                    columns,
                    nulls,
                    array.len(),
                )?)
            }
            Self::List(element, change) => {
                let array = array.as_list_opt::<i32>().ok_or_else(|| unexpected("has no list"))?;
                Arc::new(ListArray::try_new(
                    Arc::clone(element),
                    array.offsets().clone(),
                    change.apply(array.values())?,
                    array.nulls().cloned(),
                )?)
            }
            Self::Map(entries, key, value) => {
                let array = array.as_map_opt().ok_or_else(|| unexpected("has no map"))?;
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(unexpected("has a map without entries"));
                };
                let columns = vec![key.apply(array.keys())?, value.apply(array.values())?];
                Arc::new(MapArray::try_new(
                    Arc::clone(entries),
                    array.offsets().clone(),
                    StructArray::try_new(fields.clone(), columns, None)?,
                    array.nulls().cloned(),
                    false,
                )?)
            }
        })
    }
}

fn unexpected(problem: &str) -> ArrowError {
    ArrowError::SchemaError(format!("a batch of a file {problem} where its schema does"))
}

/// The same array under a type that differs in the names and metadata of nested fields alone.
pub(crate) fn relabel(array: &ArrayRef, ty: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == ty {
        return Ok(Arc::clone(array));
    }
    Ok(match ty {
        DataType::Struct(fields) => {
            let array = array.as_struct_opt().ok_or_else(|| unexpected("has no struct"))?;
            let columns = fields
                .iter()
                .zip(array.columns())
                .map(|(field, column)| relabel(column, field.data_type()))
                .collect::<Result<Vec<_>, _>>()?;
            let nulls = array.nulls().cloned();
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())?)
        }
        DataType::List(element) => {
            let array = array.as_list_opt::<i32>().ok_or_else(|| unexpected("has no list"))?;
            Arc::new(ListArray::try_new(
                Arc::clone(element),
                array.offsets().clone(),
                relabel(array.values(), element.data_type())?,
                array.nulls().cloned(),
            )?)
        }
        DataType::Map(entries, ordered) => {
            let array = array.as_map_opt().ok_or_else(|| unexpected("has no map"))?;
            let inner: ArrayRef = Arc::new(array.entries().clone());
            Arc::new(MapArray::try_new(
                Arc::clone(entries),
                array.offsets().clone(),
                relabel(&inner, entries.data_type())?.as_struct().clone(),
                array.nulls().cloned(),
                *ordered,
            )?)
        }
        _ => return Err(unexpected("has another type")),
    })
}

pub(crate) fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

fn children(ty: &DataType) -> Vec<&FieldRef> {
    match ty {
        DataType::Struct(fields) => fields.iter().collect(),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => vec![field],
        _ => Vec::new(),
    }
}

/// How many Parquet leaves make up a value of this type.
pub(crate) fn leaf_count(ty: &DataType) -> usize {
    if !ty.is_nested() {
        return 1;
    }
    children(ty).into_iter().map(|f| leaf_count(f.data_type())).sum()
}

fn has_ids(fields: &Fields) -> bool {
    fields.iter().any(|f| {
        field_id(f).is_some()
            || children(f.data_type())
                .into_iter()
                .any(|c| has_ids(&Fields::from(vec![Arc::clone(c)])))
    })
}

/// The fields with the ids that a name mapping gives them; those it does not name keep none.
fn mapped(fields: &Fields, names: &[&MappedField]) -> Fields {
    let named = |name: &String| names.iter().copied().find(|m| m.names().contains(name));
    fields.iter().map(|field| mapped_field(field, named(field.name()))).collect()
}

fn mapped_field(field: &Field, entry: Option<&MappedField>) -> Field {
    let inner: Vec<&MappedField> =
        entry.map_or_else(Vec::new, |e| e.fields().iter().map(AsRef::as_ref).collect());
    let part = |name: &str| inner.iter().copied().find(|m| m.names().iter().any(|n| n == name));
    let ty = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(mapped(fields, &inner)),
        DataType::List(element) => DataType::List(Arc::new(mapped_field(element, part("element")))),
        DataType::Map(entries, ordered) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                let pair =
                    [mapped_field(&pair[0], part("key")), mapped_field(&pair[1], part("value"))];
                let pair = DataType::Struct(pair.into_iter().collect());
                DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(pair)), *ordered)
            }
            _ => field.data_type().clone(),
        },
        ty => ty.clone(),
    };
    let field = field.clone().with_data_type(ty);
    match entry.and_then(MappedField::field_id) {
        Some(id) => with_field_id(&field, id),
        None => field,
    }
}

#[cfg(test)]
mod tests;
