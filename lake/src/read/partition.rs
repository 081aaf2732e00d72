//! What the partition a file belongs to says of its rows.
//!
//! Manifests usually have bounds of the columns as well, and these are tighter. A partition says
//! more where they have none (another program wrote the file and was told to keep no metrics, or
//! left out the column) and where bounds say nothing: values in buckets.

use std::collections::{HashMap, HashSet};

use arrow::{
    array::{Array, AsArray, BooleanArray},
    datatypes::Int32Type,
};
use datafusion::scalar::ScalarValue;
use iceberg::spec::{Literal, PrimitiveLiteral, Transform};
use medlake_contract::ColumnType;

use crate::format::{
    bounds::{Bounds, scalar_of},
    data_file::LakeFile,
    partition::{MICROS_PER_DAY, MICROS_PER_HOUR, first_day_of_month, transform},
};

/// The partition values made of the column with this field id.
fn terms(file: &LakeFile, id: i32) -> impl Iterator<Item = (Transform, Option<&PrimitiveLiteral>)> {
    let values = file.partition.fields().iter();
    file.spec.fields().iter().zip(values).filter_map(move |(field, value)| {
        let known = !matches!(field.transform, Transform::Void | Transform::Unknown);
        let value = match value {
            None => None,
            Some(Literal::Primitive(value)) => Some(value),
            Some(_) => return None,
        };
        (known && field.source_id == id).then_some((field.transform, value))
    })
}

/// Values of a column that every row has, when the file is partitioned by them; and how many rows
/// have none, when it is partitioned by any part of them.
pub(crate) fn values(file: &LakeFile, id: i32, ty: &ColumnType) -> Bounds {
    let mut known = Bounds::default();
    for (transform, value) in terms(file, id) {
        // A part of a value is null where the value is.
        known.nulls = Some(if value.is_none() { u64::from(file.rows) } else { 0 });
        // Zero has two forms, and there are many that are no number.
        let floating = matches!(ty, ColumnType::Float32 | ColumnType::Float64);
        if transform == Transform::Identity && !floating {
            let value = value.and_then(|value| scalar_of(value, ty));
            (known.min, known.max) = (value.clone(), value);
        }
    }
    known
}

/// Limits between which all values of a column are that belong to the file's partition.
pub(crate) fn limits(file: &LakeFile, id: i32, ty: &ColumnType) -> Bounds {
    terms(file, id).fold(Bounds::default(), |known, (transform, value)| {
        known.or(|| {
            let (min, max) = value.map_or((None, None), |value| limits_of(transform, value, ty));
            Bounds { min, max, nulls: None }
        })
    })
}

type Limits = (Option<ScalarValue>, Option<ScalarValue>);

fn limits_of(transform: Transform, value: &PrimitiveLiteral, ty: &ColumnType) -> Limits {
    use PrimitiveLiteral as P;
    match (transform, value) {
        (Transform::Year | Transform::Month | Transform::Day | Transform::Hour, P::Int(number)) => {
            let number = i64::from(*number);
            // Some programs round times before 1970 up instead of down.
            let first = if number <= 0 { number - 1 } else { number };
            let at = |number| start_micros(transform, number);
            (instant(at(first), ty), instant(at(number + 1).and_then(|at| at.checked_sub(1)), ty))
        }
        (Transform::Truncate(width), P::Int(_) | P::Long(_) | P::Int128(_)) => {
            let more = width.saturating_sub(1);
            let last = match value {
                P::Int(first) => {
                    i32::try_from(more).ok().and_then(|more| first.checked_add(more)).map(P::Int)
                }
                P::Long(first) => first.checked_add(more.into()).map(P::Long),
                P::Int128(first) => first.checked_add(more.into()).map(P::Int128),
                _ => None,
            };
            // The least numbers of a type are rounded down to its greatest.
            let Some(last) = last else { return (None, None) };
            (scalar_of(value, ty), scalar_of(&last, ty))
        }
        (Transform::Truncate(width), P::String(prefix)) => {
            let whole = prefix.chars().count() < usize::try_from(width).unwrap_or(usize::MAX);
            let last = if whole { Some(prefix.clone()) } else { after(prefix) };
            (scalar_of(value, ty), last.map(|last| ScalarValue::Utf8(Some(last))))
        }
        _ => (None, None),
    }
}

/// A text that is greater than all that begin so.
fn after(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// When the year, month, day or hour of this number since 1970 begins; none when that is beyond what
/// a timestamp can say.
fn start_micros(transform: Transform, number: i64) -> Option<i64> {
    let day = |day: i64| day.checked_mul(MICROS_PER_DAY);
    match transform {
        Transform::Year => day(first_day_of_month(number.checked_mul(12)?)),
        Transform::Month => day(first_day_of_month(number)),
        Transform::Day => day(number),
        Transform::Hour => number.checked_mul(MICROS_PER_HOUR),
        _ => None,
    }
}

/// The value of a column of dates or times then.
fn instant(micros: Option<i64>, ty: &ColumnType) -> Option<ScalarValue> {
    let micros = micros?;
    let value = match ty {
        ColumnType::Date => {
            PrimitiveLiteral::Int(i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok()?)
        }
        ColumnType::TimestampMicros | ColumnType::LocalTimestampMicros => {
            PrimitiveLiteral::Long(micros)
        }
        _ => return None,
    };
    scalar_of(&value, ty)
}

/// Which files can have none of these values of the column with this field id, by the buckets they
/// belong to: false for those, null for others. None when nothing is known of any.
pub(crate) fn ruled_out<'a>(
    files: impl Iterator<Item = &'a LakeFile>,
    id: i32,
    ty: &ColumnType,
    values: &HashSet<ScalarValue>,
) -> Option<BooleanArray> {
    let arrow = ty.arrow();
    let exactly = |value: &ScalarValue| {
        let cast = value.cast_to(&arrow).ok()?;
        (!value.is_null() && cast.cast_to(&value.data_type()).ok()? == *value).then_some(cast)
    };
    let values: Vec<ScalarValue> = values.iter().map(exactly).collect::<Option<_>>()?;
    let column = ScalarValue::iter_to_array(values).ok()?;
    // The buckets of the values, for each number of buckets there is.
    let mut wanted: HashMap<u32, Option<HashSet<i32>>> = HashMap::new();
    let mut is_ruled_out = |file: &LakeFile| {
        terms(file, id).any(|(with, bucket)| {
            let Transform::Bucket(count) = with else { return false };
            // A partition without a value has rows without a value.
            let Some(PrimitiveLiteral::Int(bucket)) = bucket else { return bucket.is_none() };
            let wanted = wanted.entry(count).or_insert_with(|| {
                let buckets = transform(&column, with).ok()?;
                Some(buckets.as_primitive_opt::<Int32Type>()?.values().iter().copied().collect())
            });
            wanted.as_ref().is_some_and(|wanted| !wanted.contains(bucket))
        })
    };
    let answers: BooleanArray = files.map(|file| is_ruled_out(file).then_some(false)).collect();
    (answers.null_count() < answers.len()).then_some(answers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array},
        datatypes::DataType,
    };
    use iceberg::spec::PrimitiveType;

    use super::*;

    /// Each value is within the limits of the partition it belongs to, and the limits belong to it.
    #[test]
    fn limits_are_those_of_the_transforms() {
        let literal = |array: &ArrayRef| {
            let ty = match array.data_type() {
                DataType::Int32 => PrimitiveType::Int,
                DataType::Date32 => PrimitiveType::Date,
                DataType::Utf8 => PrimitiveType::String,
                _ => PrimitiveType::Long,
            };
            crate::format::partition::literal(array, 0, &ty).unwrap().unwrap()
        };
        let check = |value: ScalarValue, ty: ColumnType, with: Transform| {
            let part = |value: &ScalarValue| transform(&value.to_array().unwrap(), with).unwrap();
            let own = part(&value);
            let Literal::Primitive(own_literal) = literal(&own) else { panic!("{own:?}") };
            let (Some(min), Some(max)) = limits_of(with, &own_literal, &ty) else {
                panic!("{with} of {value}: no limits")
            };
            assert!(min <= value && value <= max, "{with} of {value}: {min} to {max}");
            if !matches!(ty, ColumnType::Utf8) {
                assert_eq!(&part(&max), &own, "{with} of {value}: {max}");
            }
        };
        let times = [Transform::Year, Transform::Month, Transform::Day];
        for day in [-800_000, -366, -365, -1, 0, 1, 30, 31, 58, 59, 365, 19_782, 19_783, 2_000_000]
        {
            for with in times {
                check(ScalarValue::Date32(Some(day)), ColumnType::Date, with);
            }
            for micros in [0, 1, MICROS_PER_DAY - 1] {
                let at = Some(i64::from(day) * MICROS_PER_DAY + micros);
                for with in times.into_iter().chain([Transform::Hour]) {
                    let at = ScalarValue::TimestampMicrosecond(at, None);
                    check(at, ColumnType::LocalTimestampMicros, with);
                }
            }
        }
        for number in [-11, -10, -1, 0, 1, 9, 10, 1_000_000] {
            let with = Transform::Truncate(10);
            check(ScalarValue::Int64(Some(number)), ColumnType::Int64, with);
            let number = i32::try_from(number).unwrap();
            check(ScalarValue::Int32(Some(number)), ColumnType::Int32, with);
        }
        for text in ["", "a", "ab", "abc", "普药商城", "z\u{10ffff}", "a\u{d7ff}b"] {
            check(ScalarValue::from(text), ColumnType::Utf8, Transform::Truncate(2));
        }
        let least: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN + 3]));
        let part = transform(&least, Transform::Truncate(10)).unwrap();
        let Literal::Primitive(wrapped) = literal(&part) else { panic!("{part:?}") };
        let none = limits_of(Transform::Truncate(10), &wrapped, &ColumnType::Int64);
        assert_eq!(none, (None, None), "{wrapped:?} is above all values of its partition");
        assert_eq!(after("a\u{10ffff}"), Some("b".to_owned()));
        assert_eq!(after("\u{d7ff}"), Some("\u{e000}".to_owned()));
        assert_eq!(after("\u{10ffff}"), None);
    }
}
