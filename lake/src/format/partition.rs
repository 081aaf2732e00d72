//! Partition values: the transforms of the Iceberg specification over whole columns.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
        Int32Array, PrimitiveArray, StringArray, new_null_array,
    },
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type,
        Int32Type, Int64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    },
    error::ArrowError,
};
use iceberg::spec::{Literal, PrimitiveType, Transform};
use uuid::Uuid;

pub(crate) const MICROS_PER_HOUR: i64 = 3_600_000_000;
pub(crate) const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// The partition values of a column; null where the column is. Days are dates, the other parts of
/// time are counted from 1970 (Iceberg specification, "Partition Transforms").
pub(crate) fn transform(column: &ArrayRef, transform: Transform) -> Result<ArrayRef, ArrowError> {
    let wrong = || {
        let problem = format!("{transform} of a column of type {}", column.data_type());
        ArrowError::NotYetImplemented(problem)
    };
    Ok(match transform {
        Transform::Identity => Arc::clone(column),
        Transform::Void => new_null_array(column.data_type(), column.len()),
        Transform::Year => {
            let years = |day| year_and_month(day).0 - 1970;
            Arc::new(days(column).ok_or_else(wrong)?.unary::<_, Int32Type>(years))
        }
        Transform::Month => {
            let months = |day| {
                let (year, month) = year_and_month(day);
                (year - 1970) * 12 + month - 1
            };
            Arc::new(days(column).ok_or_else(wrong)?.unary::<_, Int32Type>(months))
        }
        Transform::Day => Arc::new(days(column).ok_or_else(wrong)?),
        Transform::Hour => {
            let micros = column.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong)?;
            Arc::new(micros.unary::<_, Int32Type>(|at| narrow(at.div_euclid(MICROS_PER_HOUR))))
        }
        Transform::Bucket(count) => Arc::new(buckets(column, count).ok_or_else(wrong)?),
        Transform::Truncate(width) => truncated(column, width).ok_or_else(wrong)?,
        Transform::Unknown => return Err(wrong()),
    })
}

/// Hours and days since 1970 of any timestamp in microseconds fit.
fn narrow(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

fn days(column: &ArrayRef) -> Option<Date32Array> {
    match column.data_type() {
        DataType::Date32 => column.as_primitive_opt::<Date32Type>().cloned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => column
            .as_primitive_opt::<TimestampMicrosecondType>()
            .map(|at| at.unary(|at| narrow(at.div_euclid(MICROS_PER_DAY)))),
        _ => None,
    }
}

/// Year and month (1 to 12) of a day since 1970-01-01 in the proleptic Gregorian calendar, by Howard
/// Hinnant's `civil_from_days`.
fn year_and_month(day: i32) -> (i32, i32) {
    let day = i64::from(day) + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (narrow(year), narrow(month))
}

/// The first day, since 1970-01-01, of a month, counted from January 1970: the other way round, by
/// Hinnant's `days_from_civil`.
pub(crate) fn first_day_of_month(month: i64) -> i64 {
    let (year, month) = (1970 + month.div_euclid(12), month.rem_euclid(12) + 1);
    // Years begin in March, so that a leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

fn buckets(column: &ArrayRef, count: u32) -> Option<Int32Array> {
    let count = i32::try_from(count).ok().filter(|n| *n > 0)?;
    let bucket = |bytes: &[u8]| (murmur3(bytes) & 0x7fff_ffff).cast_signed() % count;
    let number = |value: i64| bucket(&value.to_le_bytes());
    Some(match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().unary(|v| number(v.into())),
        DataType::Date32 => column.as_primitive::<Date32Type>().unary(|v| number(v.into())),
        DataType::Int64 => column.as_primitive::<Int64Type>().unary(number),
        DataType::Time64(TimeUnit::Microsecond) => {
            column.as_primitive::<Time64MicrosecondType>().unary(number)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive::<TimestampMicrosecondType>().unary(number)
        }
        DataType::Decimal128(..) => {
            column.as_primitive::<Decimal128Type>().unary(|v| bucket(least_bytes(&v.to_be_bytes())))
        }
        DataType::Utf8 => {
            column.as_string::<i32>().iter().map(|v| v.map(|v| bucket(v.as_bytes()))).collect()
        }
        DataType::Binary => column.as_binary::<i32>().iter().map(|v| v.map(bucket)).collect(),
        DataType::FixedSizeBinary(_) => {
            column.as_fixed_size_binary().iter().map(|v| v.map(bucket)).collect()
        }
        _ => return None,
    })
}

/// The fewest bytes of a big-endian number that still have its sign.
fn least_bytes(bytes: &[u8; 16]) -> &[u8] {
    let mut first = 0;
    while first < 15 {
        let (leading, next_is_negative) = (bytes[first], bytes[first + 1] & 0x80 != 0);
        if !(leading == 0 && !next_is_negative || leading == 0xff && next_is_negative) {
            break;
        }
        first += 1;
    }
    &bytes[first..]
}

/// The 32-bit hash of `MurmurHash3` (x86 variant, seed 0).
fn murmur3(bytes: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let scramble = |word: u32| word.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash = 0_u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        hash ^= scramble(u32::from_le_bytes(*word));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let mut word = [0; 4];
        word[..tail.len()].copy_from_slice(tail);
        hash ^= scramble(u32::from_le_bytes(word));
    }
    // The length counts modulo 2^32.
    hash ^= u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

fn truncated(column: &ArrayRef, width: u32) -> Option<ArrayRef> {
    let wide = i128::from(width);
    let chars = usize::try_from(width).ok().filter(|w| *w > 0)?;
    Some(match column.data_type() {
        DataType::Int32 => {
            let width = i32::try_from(width).ok()?;
            let cut = |v: i32| v.wrapping_sub(v.rem_euclid(width));
            Arc::new(column.as_primitive::<Int32Type>().unary::<_, Int32Type>(cut))
        }
        DataType::Int64 => {
            let width = i64::from(width);
            let cut = |v: i64| v.wrapping_sub(v.rem_euclid(width));
            Arc::new(column.as_primitive::<Int64Type>().unary::<_, Int64Type>(cut))
        }
        DataType::Decimal128(precision, scale) => {
            let cut = |v: i128| v.wrapping_sub(v.rem_euclid(wide));
            let cut: Decimal128Array = column.as_primitive::<Decimal128Type>().unary(cut);
            Arc::new(cut.with_precision_and_scale(*precision, *scale).ok()?)
        }
        DataType::Utf8 => {
            let cut = |v: &str| v.char_indices().nth(chars).map_or(v.len(), |(end, _)| end);
            let all = column.as_string::<i32>().iter();
            Arc::new(all.map(|v| v.map(|v| v[..cut(v)].to_owned())).collect::<StringArray>())
        }
        DataType::Binary => {
            let all = column.as_binary::<i32>().iter();
            Arc::new(all.map(|v| v.map(|v| &v[..v.len().min(chars)])).collect::<BinaryArray>())
        }
        _ => return None,
    })
}

/// One partition value in the words of the metadata library; none when it is null. `ty` is the type
/// the partition specification gives it.
pub(crate) fn literal(
    values: &ArrayRef,
    row: usize,
    ty: &PrimitiveType,
) -> Result<Option<Literal>, ArrowError> {
    fn at<T: ArrowPrimitiveType>(values: &ArrayRef, row: usize) -> Option<T::Native> {
        values.as_primitive_opt::<T>().map(|v: &PrimitiveArray<T>| v.value(row))
    }
    let fixed = || {
        let values: Option<&FixedSizeBinaryArray> = values.as_fixed_size_binary_opt();
        values.map(|v| v.value(row))
    };
    if values.is_null(row) {
        return Ok(None);
    }
    let found = match ty {
        PrimitiveType::Boolean => values.as_boolean_opt().map(|v| Literal::bool(v.value(row))),
        PrimitiveType::Int => at::<Int32Type>(values, row).map(Literal::int),
        PrimitiveType::Long => at::<Int64Type>(values, row).map(Literal::long),
        PrimitiveType::Float => at::<Float32Type>(values, row).map(Literal::float),
        PrimitiveType::Double => at::<Float64Type>(values, row).map(Literal::double),
        PrimitiveType::Decimal { .. } => at::<Decimal128Type>(values, row).map(Literal::decimal),
        PrimitiveType::Date => at::<Date32Type>(values, row).map(Literal::date),
        PrimitiveType::Time => at::<Time64MicrosecondType>(values, row).map(Literal::time),
        PrimitiveType::Timestamp => {
            at::<TimestampMicrosecondType>(values, row).map(Literal::timestamp)
        }
        PrimitiveType::Timestamptz => {
            at::<TimestampMicrosecondType>(values, row).map(Literal::timestamptz)
        }
        PrimitiveType::String => {
            values.as_string_opt::<i32>().map(|v| Literal::string(v.value(row)))
        }
        PrimitiveType::Uuid => fixed().and_then(|v| Uuid::from_slice(v).ok()).map(Literal::uuid),
        PrimitiveType::Fixed(_) => fixed().map(|v| Literal::fixed(v.iter().copied())),
        PrimitiveType::Binary => {
            values.as_binary_opt::<i32>().map(|v| Literal::binary(v.value(row).iter().copied()))
        }
        _ => None,
    };
    let wrong = || {
        let problem = format!("{} is not held as {}", ty, values.data_type());
        ArrowError::SchemaError(problem)
    };
    found.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use iceberg::{
        spec::{Datum, PrimitiveLiteral},
        transform::create_transform_function,
    };

    use super::*;

    /// Transforms a column with ours and value by value with the metadata library's.
    fn check(column: ArrayRef, data: &[Datum], source: &PrimitiveType, with: Transform) {
        let library = create_transform_function(&with).unwrap();
        let ty = with.result_type(&iceberg::spec::Type::Primitive(source.clone())).unwrap();
        let ty = ty.as_primitive_type().unwrap().clone();
        let ours = transform(&column, with).unwrap();
        for (row, datum) in data.iter().enumerate() {
            let theirs = library.transform_literal(datum).unwrap().unwrap();
            let found = literal(&ours, row, &ty).unwrap().unwrap();
            let expected: &PrimitiveLiteral = theirs.literal();
            assert_eq!(&found.as_primitive_literal().unwrap(), expected, "{with} of {datum}");
        }
        assert!(transform(&new_null_array(column.data_type(), 1), with).unwrap().is_null(0));
    }

    #[test]
    fn transforms_are_those_of_the_metadata_library() {
        let mut numbers = vec![0, 1, -1, 9, 10, -10, -11, 34, i64::MAX, i64::MIN + 100];
        numbers
            .extend((0..200).map(|n: i64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed())));
        let longs: Vec<Datum> = numbers.iter().map(|n| Datum::long(*n)).collect();
        let column: ArrayRef = Arc::new(Int64Array::from(numbers.clone()));
        for with in [Transform::Identity, Transform::Bucket(16), Transform::Truncate(10)] {
            check(Arc::clone(&column), &longs, &PrimitiveType::Long, with);
        }

        let days: Vec<i32> = numbers.iter().map(|n| i32::try_from(n % 200_000).unwrap()).collect();
        let ints: Vec<Datum> = days.iter().map(|n| Datum::int(*n)).collect();
        let column: ArrayRef = Arc::new(Int32Array::from(days.clone()));
        for with in [Transform::Bucket(7), Transform::Truncate(100)] {
            check(Arc::clone(&column), &ints, &PrimitiveType::Int, with);
        }
        let dates: Vec<Datum> = days.iter().map(|n| Datum::date(*n)).collect();
        let column: ArrayRef = Arc::new(Date32Array::from(days));
        for with in [Transform::Year, Transform::Month, Transform::Day, Transform::Bucket(7)] {
            check(Arc::clone(&column), &dates, &PrimitiveType::Date, with);
        }

        let micros: Vec<i64> = numbers.iter().map(|n| n % (200_000 * MICROS_PER_DAY)).collect();
        let times: Vec<Datum> = micros.iter().map(|n| Datum::timestamptz_micros(*n)).collect();
        let column = TimestampMicrosecondArray::from(micros).with_timezone("UTC");
        let column: ArrayRef = Arc::new(column);
        for with in [
            Transform::Year,
            Transform::Month,
            Transform::Day,
            Transform::Hour,
            Transform::Bucket(5),
            Transform::Identity,
        ] {
            check(Arc::clone(&column), &times, &PrimitiveType::Timestamptz, with);
        }

        let words = ["", "a", "iceberg", "普药商城", "\u{10348}x", "a longer text than others"];
        let texts: Vec<Datum> = words.iter().map(Datum::string).collect();
        let column: ArrayRef = Arc::new(StringArray::from(words.to_vec()));
        for with in [Transform::Identity, Transform::Bucket(16), Transform::Truncate(2)] {
            check(Arc::clone(&column), &texts, &PrimitiveType::String, with);
        }
        let blobs: Vec<Datum> = words.iter().map(|w| Datum::binary(w.bytes())).collect();
        let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(words));
        check(Arc::clone(&column), &blobs, &PrimitiveType::Binary, Transform::Bucket(16));
        let cut = transform(&column, Transform::Truncate(3)).unwrap();
        assert_eq!(cut.as_binary::<i32>().value(2), b"ice");
        assert_eq!(cut.as_binary::<i32>().value(1), b"a");
    }

    /// The examples of the Iceberg specification, appendix B.
    #[test]
    fn hashes_are_those_of_the_specification() {
        assert_eq!(murmur3(&34_i64.to_le_bytes()).cast_signed(), 2_017_239_379);
        assert_eq!(murmur3(least_bytes(&1420_i128.to_be_bytes())).cast_signed(), -500_754_589);
        assert_eq!(murmur3(b"iceberg").cast_signed(), 1_210_000_089);
        assert_eq!(murmur3(&[0, 1, 2, 3]).cast_signed(), -188_683_207);
        let id = Uuid::parse_str("f79c3e09-677c-4bbd-a479-3f349cb785e7").unwrap();
        assert_eq!(murmur3(id.as_bytes()).cast_signed(), 1_488_055_340);
        assert_eq!(least_bytes(&(-1_i128).to_be_bytes()), [0xff]);
        assert_eq!(least_bytes(&128_i128.to_be_bytes()), [0, 0x80]);
        assert_eq!(least_bytes(&0_i128.to_be_bytes()), [0]);
    }
}
