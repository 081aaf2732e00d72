//! What is known of the values of a file without reading them: bounds and counts, between Parquet's
//! footers, Iceberg's manifests and DataFusion.

use std::collections::HashMap;

use datafusion::scalar::ScalarValue;
use iceberg::spec::{DataFile, Datum, PrimitiveLiteral};
use medlake_contract::ColumnType;
use parquet::file::{metadata::ParquetMetaData, statistics::Statistics};

use crate::format::schema::{Leaf, ShapeField, primitive_type};

/// What is known of a column in a file. `None` is "not known".
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    pub(crate) min: Option<ScalarValue>,
    pub(crate) max: Option<ScalarValue>,
    pub(crate) nulls: Option<u64>,
}

impl Bounds {
    /// The same, with what is not known from elsewhere.
    pub(crate) fn or(self, other: impl FnOnce() -> Self) -> Self {
        if self.min.is_some() && self.max.is_some() && self.nulls.is_some() {
            return self;
        }
        let other = other();
        Self {
            min: self.min.or(other.min),
            max: self.max.or(other.max),
            nulls: self.nulls.or(other.nulls),
        }
    }

    /// The same with the bounds in another form.
    pub(crate) fn map(self, form: fn(ScalarValue) -> ScalarValue) -> Self {
        Self { min: self.min.map(form), max: self.max.map(form), nulls: self.nulls }
    }
}

/// What a manifest says of the columns of a file, by field id: a column may have another name and a
/// wider type by now.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileBounds {
    columns: HashMap<i32, Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    min: Option<Datum>,
    max: Option<Datum>,
    nulls: Option<u64>,
}

impl FileBounds {
    pub(crate) fn of(entry: &DataFile) -> Self {
        let mut columns: HashMap<i32, Known> = HashMap::new();
        for (id, nulls) in entry.null_value_counts() {
            columns.entry(*id).or_default().nulls = Some(*nulls);
        }
        // A comparison may let NaN through, but bounds leave it out.
        let may_be_nan = |id: &i32, bound: &Datum| {
            let floating =
                matches!(bound.literal(), PrimitiveLiteral::Float(_) | PrimitiveLiteral::Double(_));
            floating && entry.nan_value_counts().get(id) != Some(&0)
        };
        for (id, bound) in entry.lower_bounds() {
            if !may_be_nan(id, bound) {
                columns.entry(*id).or_default().min = Some(bound.clone());
            }
        }
        for (id, bound) in entry.upper_bounds() {
            if !may_be_nan(id, bound) {
                columns.entry(*id).or_default().max = Some(bound.clone());
            }
        }
        Self { columns }
    }

    /// What is known of a column, in its present type.
    pub(crate) fn of_column(&self, field: &ShapeField, ty: &ColumnType) -> Bounds {
        let Some(known) = self.columns.get(&field.id) else { return Bounds::default() };
        let scalar =
            |bound: &Option<Datum>| bound.as_ref().and_then(|b| scalar_of(b.literal(), ty));
        Bounds { min: scalar(&known.min), max: scalar(&known.max), nulls: known.nulls }
    }
}

/// A value of the metadata as DataFusion's, in the present type of its column, which may be wider
/// than the one it was written in; none when it is of another type.
pub(crate) fn scalar_of(value: &PrimitiveLiteral, ty: &ColumnType) -> Option<ScalarValue> {
    use PrimitiveLiteral as P;
    Some(match (value, ty) {
        (P::Boolean(v), ColumnType::Boolean) => ScalarValue::Boolean(Some(*v)),
        (P::Int(v), ColumnType::Int32) => ScalarValue::Int32(Some(*v)),
        (P::Int(v), ColumnType::Int64) => ScalarValue::Int64(Some((*v).into())),
        (P::Long(v), ColumnType::Int64) => ScalarValue::Int64(Some(*v)),
        (P::Float(v), ColumnType::Float32) => ScalarValue::Float32(Some(v.0)),
        (P::Float(v), ColumnType::Float64) => ScalarValue::Float64(Some(v.0.into())),
        (P::Double(v), ColumnType::Float64) => ScalarValue::Float64(Some(v.0)),
        (P::Int128(v), ColumnType::Decimal { precision, scale }) => {
            ScalarValue::Decimal128(Some(*v), *precision, i8::try_from(*scale).ok()?)
        }
        (P::String(v), ColumnType::Utf8) => ScalarValue::Utf8(Some(v.clone())),
        (P::Int(v), ColumnType::Date) => ScalarValue::Date32(Some(*v)),
        (P::Long(v), ColumnType::Time) => ScalarValue::Time64Microsecond(Some(*v)),
        (P::Long(v), ColumnType::TimestampMicros) => {
            ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into()))
        }
        (P::Long(v), ColumnType::LocalTimestampMicros) => {
            ScalarValue::TimestampMicrosecond(Some(*v), None)
        }
        // A date that became a timestamp.
        (P::Int(v), ColumnType::LocalTimestampMicros) => {
            ScalarValue::TimestampMicrosecond(Some(i64::from(*v) * 86_400_000_000), None)
        }
        (P::UInt128(v), ColumnType::Uuid) => {
            ScalarValue::FixedSizeBinary(16, Some(v.to_be_bytes().to_vec()))
        }
        (P::Binary(v), ColumnType::Fixed(length)) if v.len() == *length as usize => {
            ScalarValue::FixedSizeBinary(i32::try_from(*length).ok()?, Some(v.clone()))
        }
        (P::Binary(v), ColumnType::Binary) => ScalarValue::Binary(Some(v.clone())),
        _ => return None,
    })
}

/// The other way round: a value that is not null as the metadata has it; none when it is not of the
/// column's type.
pub(crate) fn literal_of(value: &ScalarValue, ty: &ColumnType) -> Option<PrimitiveLiteral> {
    use PrimitiveLiteral as P;
    Some(match (value, ty) {
        (ScalarValue::Boolean(Some(v)), ColumnType::Boolean) => P::Boolean(*v),
        (ScalarValue::Int32(Some(v)), ColumnType::Int32)
        | (ScalarValue::Date32(Some(v)), ColumnType::Date) => P::Int(*v),
        (ScalarValue::Int64(Some(v)), ColumnType::Int64)
        | (ScalarValue::Time64Microsecond(Some(v)), ColumnType::Time)
        | (ScalarValue::TimestampMicrosecond(Some(v), None), ColumnType::LocalTimestampMicros)
        | (ScalarValue::TimestampMicrosecond(Some(v), Some(_)), ColumnType::TimestampMicros) => {
            P::Long(*v)
        }
        (ScalarValue::Float32(Some(v)), ColumnType::Float32) if v.is_finite() => {
            P::Float((*v).into())
        }
        (ScalarValue::Float64(Some(v)), ColumnType::Float64) if v.is_finite() => {
            P::Double((*v).into())
        }
        (
            ScalarValue::Decimal128(Some(v), digits, after),
            ColumnType::Decimal { precision, scale },
        ) if digits == precision && i8::try_from(*scale) == Ok(*after) => P::Int128(*v),
        (ScalarValue::Utf8(Some(v)), ColumnType::Utf8) => P::String(v.clone()),
        (ScalarValue::Binary(Some(v)), ColumnType::Binary) => P::Binary(v.clone()),
        (ScalarValue::FixedSizeBinary(_, Some(v)), ColumnType::Fixed(length))
            if v.len() == *length as usize =>
        {
            P::Binary(v.clone())
        }
        (ScalarValue::FixedSizeBinary(_, Some(v)), ColumnType::Uuid) => {
            P::UInt128(u128::from_be_bytes(v.as_slice().try_into().ok()?))
        }
        _ => return None,
    })
}

/// What a manifest says of the columns of a file just written.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) column_sizes: HashMap<i32, u64>,
    pub(crate) value_counts: HashMap<i32, u64>,
    pub(crate) null_value_counts: HashMap<i32, u64>,
    pub(crate) nan_value_counts: HashMap<i32, u64>,
    pub(crate) lower_bounds: HashMap<i32, Datum>,
    pub(crate) upper_bounds: HashMap<i32, Datum>,
}

impl Metrics {
    /// Of a file with these columns of values, and so many NaN in each. Columns of which a row may
    /// hold several values get sizes alone.
    pub(crate) fn of(footer: &ParquetMetaData, leaves: &[Leaf], nans: &[u64]) -> Self {
        let mut metrics = Self::default();
        for (at, leaf) in leaves.iter().enumerate() {
            let chunks = || footer.row_groups().iter().map(move |g| g.column(at));
            let bytes = chunks().map(|c| c.compressed_size().unsigned_abs()).sum();
            metrics.column_sizes.insert(leaf.id, bytes);
            if leaf.repeated {
                continue;
            }
            let values = chunks().map(|c| c.num_values().unsigned_abs()).sum();
            metrics.value_counts.insert(leaf.id, values);
            let nulls: Option<u64> =
                chunks().map(|c| c.statistics().and_then(Statistics::null_count_opt)).sum();
            if let Some(nulls) = nulls {
                metrics.null_value_counts.insert(leaf.id, nulls);
            }
            if matches!(leaf.ty, ColumnType::Float32 | ColumnType::Float64) {
                let nans = nans.get(at).copied().unwrap_or(0);
                metrics.nan_value_counts.insert(leaf.id, nans);
                // Parquet's bounds leave NaN out, but a comparison may let NaN through.
                if nans > 0 {
                    continue;
                }
            }
            if let Some((min, max)) = file_bounds(footer, at, &leaf.ty) {
                metrics.lower_bounds.insert(leaf.id, min);
                metrics.upper_bounds.insert(leaf.id, max);
            }
        }
        metrics
    }
}

/// The least and greatest value of a column over all row groups; none when not known.
fn file_bounds(footer: &ParquetMetaData, at: usize, ty: &ColumnType) -> Option<(Datum, Datum)> {
    let mut bounds: Option<(Datum, Datum)> = None;
    for group in footer.row_groups() {
        let statistics = group.column(at).statistics()?;
        let values = u64::try_from(group.column(at).num_values()).ok()?;
        if statistics.null_count_opt() == Some(values) {
            continue;
        }
        let (min, max) = group_bounds(statistics, ty)?;
        bounds = Some(match bounds {
            None => (min, max),
            Some((low, high)) => {
                (if min < low { min } else { low }, if max > high { max } else { high })
            }
        });
    }
    bounds
}

fn group_bounds(statistics: &Statistics, ty: &ColumnType) -> Option<(Datum, Datum)> {
    let (min, max) = match (statistics, ty) {
        (Statistics::Boolean(s), ColumnType::Boolean) => {
            return Some((Datum::bool(*s.min_opt()?), Datum::bool(*s.max_opt()?)));
        }
        // Decimals are stored as integers while they fit; manifests hold them with the high byte first.
        (Statistics::Int32(s), ColumnType::Decimal { .. }) => {
            (s.min_opt()?.to_be_bytes().to_vec(), s.max_opt()?.to_be_bytes().to_vec())
        }
        (Statistics::Int64(s), ColumnType::Decimal { .. }) => {
            (s.min_opt()?.to_be_bytes().to_vec(), s.max_opt()?.to_be_bytes().to_vec())
        }
        (Statistics::Int32(s), _) => {
            (s.min_opt()?.to_le_bytes().to_vec(), s.max_opt()?.to_le_bytes().to_vec())
        }
        (Statistics::Int64(s), _) => {
            (s.min_opt()?.to_le_bytes().to_vec(), s.max_opt()?.to_le_bytes().to_vec())
        }
        (Statistics::Float(s), _) => {
            (s.min_opt()?.to_le_bytes().to_vec(), s.max_opt()?.to_le_bytes().to_vec())
        }
        (Statistics::Double(s), _) => {
            (s.min_opt()?.to_le_bytes().to_vec(), s.max_opt()?.to_le_bytes().to_vec())
        }
        (Statistics::ByteArray(s), _) => {
            (s.min_opt()?.data().to_vec(), s.max_opt()?.data().to_vec())
        }
        (Statistics::FixedLenByteArray(s), _) => {
            (s.min_opt()?.data().to_vec(), s.max_opt()?.data().to_vec())
        }
        _ => return None,
    };
    let datum = |bytes: &[u8]| Datum::try_from_bytes(bytes, primitive_type(ty)?).ok();
    Some((datum(&min)?, datum(&max)?))
}
