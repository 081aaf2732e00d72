//! One value of a column in PostgreSQL's text or binary form.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveTime, Offset, TimeZone, Timelike};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, timezone::Tz},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Float32Type, Float64Type,
        Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit,
        Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use pgwire::api::Type;

use crate::uuids;

/// Microseconds from 1970 to PostgreSQL's own day one, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The PostgreSQL type a column is told to have.
pub(crate) fn pg_type(field: &Field) -> Type {
    match field.metadata().get("pg.oid_alias").map(String::as_str) {
        Some("oid") => return Type::OID,
        Some("regproc") => return Type::REGPROC,
        Some("regclass") => return Type::REGCLASS,
        Some("regtype") => return Type::REGTYPE,
        Some("regnamespace") => return Type::REGNAMESPACE,
        _ => {}
    }
    if field.metadata().contains_key("pg.char") {
        return Type::CHAR;
    }
    of_arrow(field.data_type())
}

fn of_arrow(ty: &DataType) -> Type {
    match ty {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 => Type::INT8,
        DataType::UInt64 | DataType::Decimal32(..) | DataType::Decimal64(..) => Type::NUMERIC,
        DataType::Decimal128(..) | DataType::Decimal256(..) => Type::NUMERIC,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Time32(_) | DataType::Time64(_) => Type::TIME,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Interval(_) | DataType::Duration(_) => Type::INTERVAL,
        DataType::FixedSizeBinary(16) => Type::UUID,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => Type::BYTEA,
        DataType::Dictionary(_, value) => of_arrow(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match of_arrow(item.data_type()) {
                Type::BOOL => Type::BOOL_ARRAY,
                Type::INT2 => Type::INT2_ARRAY,
                Type::INT4 => Type::INT4_ARRAY,
                Type::INT8 => Type::INT8_ARRAY,
                Type::FLOAT4 => Type::FLOAT4_ARRAY,
                Type::FLOAT8 => Type::FLOAT8_ARRAY,
                Type::NUMERIC => Type::NUMERIC_ARRAY,
                Type::DATE => Type::DATE_ARRAY,
                Type::TIMESTAMP => Type::TIMESTAMP_ARRAY,
                Type::TIMESTAMPTZ => Type::TIMESTAMPTZ_ARRAY,
                Type::UUID => Type::UUID_ARRAY,
                _ => Type::TEXT_ARRAY,
            }
        }
        _ => Type::TEXT,
    }
}

/// Bytes a value of the type always takes, or -1 where they vary.
pub(crate) fn type_size(ty: &Type) -> i16 {
    match *ty {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID | Type::REGCLASS | Type::REGTYPE => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL | Type::UUID => 16,
        _ => -1,
    }
}

/// A column of a batch, brought into one of the few shapes values are written from.
pub(crate) struct Values {
    array: ArrayRef,
    ty: Type,
    zone: Option<Tz>,
}

impl Values {
    /// # Errors
    /// When the column cannot be brought into such a shape.
    pub(crate) fn new(array: &ArrayRef, ty: &Type, zone: Tz) -> Result<Self, ArrowError> {
        let target = match array.data_type() {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            DataType::FixedSizeBinary(16) => DataType::FixedSizeBinary(16),
            DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
                DataType::Binary
            }
            DataType::Date64 => DataType::Date32,
            DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
            DataType::Timestamp(_, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            DataType::Float16 => DataType::Float32,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            DataType::Interval(_) | DataType::Duration(_) => {
                DataType::Interval(IntervalUnit::MonthDayNano)
            }
            DataType::Dictionary(_, value) => {
                let inner = cast(array, value)?;
                return Self::new(&inner, ty, zone);
            }
            other => other.clone(),
        };
        let array = if *array.data_type() == target {
            ArrayRef::clone(array)
        } else {
            cast(array, &target)?
        };
        let zone = matches!(array.data_type(), DataType::Timestamp(_, Some(_))).then_some(zone);
        Ok(Self { array, ty: ty.clone(), zone })
    }

    /// Writes the value of `row` in text form; says whether there is one.
    pub(crate) fn text(&self, row: usize, out: &mut BytesMut) -> Result<bool, ArrowError> {
        let array = &self.array;
        if array.is_null(row) || *array.data_type() == DataType::Null {
            return Ok(false);
        }
        let mut to = Text(out);
        let written = match array.data_type() {
            DataType::Boolean => {
                to.write_str(if array.as_boolean().value(row) { "t" } else { "f" })
            }
            DataType::Int8 => write!(to, "{}", array.as_primitive::<Int8Type>().value(row)),
            DataType::Int16 => write!(to, "{}", array.as_primitive::<Int16Type>().value(row)),
            DataType::Int32 => write!(to, "{}", array.as_primitive::<Int32Type>().value(row)),
            DataType::Int64 => write!(to, "{}", array.as_primitive::<Int64Type>().value(row)),
            DataType::UInt8 => write!(to, "{}", array.as_primitive::<UInt8Type>().value(row)),
            DataType::UInt16 => write!(to, "{}", array.as_primitive::<UInt16Type>().value(row)),
            DataType::UInt32 => write!(to, "{}", array.as_primitive::<UInt32Type>().value(row)),
            DataType::UInt64 => write!(to, "{}", array.as_primitive::<UInt64Type>().value(row)),
            DataType::Float32 => {
                let value = array.as_primitive::<Float32Type>().value(row);
                to.write_str(&float_text(f64::from(value), &format!("{value:e}")))
            }
            DataType::Float64 => {
                let value = array.as_primitive::<Float64Type>().value(row);
                to.write_str(&float_text(value, &format!("{value:e}")))
            }
            DataType::Decimal128(..) => {
                to.write_str(&array.as_primitive::<Decimal128Type>().value_as_string(row))
            }
            DataType::Decimal256(..) => {
                to.write_str(&array.as_primitive::<Decimal256Type>().value_as_string(row))
            }
            DataType::Utf8 => to.write_str(array.as_string::<i32>().value(row)),
            DataType::FixedSizeBinary(_) => {
                to.write_str(&uuids::text(array.as_fixed_size_binary().value(row)))
            }
            DataType::Binary => {
                let bytes = array.as_binary::<i32>().value(row);
                to.write_str("\\x")
                    .and_then(|()| bytes.iter().try_for_each(|byte| write!(to, "{byte:02x}")))
            }
            DataType::Date32 => {
                let days = array.as_primitive::<Date32Type>().value(row);
                to.write_str(&date_text(date_of(days)?))
            }
            DataType::Time64(_) => {
                let micros = array.as_primitive::<Time64MicrosecondType>().value(row);
                to.write_str(&time_text(time_of(micros)?))
            }
            DataType::Timestamp(..) => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
                to.write_str(&timestamp_text(micros, self.zone)?)
            }
            DataType::Interval(_) => {
                let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                to.write_str(&interval_text(value.months, value.days, value.nanoseconds / 1000))
            }
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                return self.array_text(row, out).map(|()| true);
            }
            _ => {
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
                write!(to, "{}", formatter.value(row))
            }
        };
        written.map_err(|_full| ArrowError::ComputeError("the row is too long".into()))?;
        Ok(true)
    }

    /// Writes the value of `row` in binary form; says whether there is one.
    pub(crate) fn binary(&self, row: usize, out: &mut BytesMut) -> Result<bool, ArrowError> {
        let array = &self.array;
        if array.is_null(row) || *array.data_type() == DataType::Null {
            return Ok(false);
        }
        match array.data_type() {
            DataType::Boolean => out.put_u8(u8::from(array.as_boolean().value(row))),
            DataType::Int8 => out.put_i16(array.as_primitive::<Int8Type>().value(row).into()),
            DataType::Int16 => out.put_i16(array.as_primitive::<Int16Type>().value(row)),
            DataType::Int32 => out.put_i32(array.as_primitive::<Int32Type>().value(row)),
            DataType::Int64 => out.put_i64(array.as_primitive::<Int64Type>().value(row)),
            DataType::UInt8 => out.put_i16(array.as_primitive::<UInt8Type>().value(row).into()),
            DataType::UInt16 => out.put_i32(array.as_primitive::<UInt16Type>().value(row).into()),
            DataType::UInt32 => out.put_i64(array.as_primitive::<UInt32Type>().value(row).into()),
            DataType::Float32 => out.put_f32(array.as_primitive::<Float32Type>().value(row)),
            DataType::Float64 => out.put_f64(array.as_primitive::<Float64Type>().value(row)),
            DataType::UInt64 => {
                put_numeric(&array.as_primitive::<UInt64Type>().value(row).to_string(), out);
            }
            DataType::Decimal128(..) => {
                put_numeric(&array.as_primitive::<Decimal128Type>().value_as_string(row), out);
            }
            DataType::Decimal256(..) => {
                put_numeric(&array.as_primitive::<Decimal256Type>().value_as_string(row), out);
            }
            DataType::Utf8 => out.put_slice(array.as_string::<i32>().value(row).as_bytes()),
            DataType::Binary => out.put_slice(array.as_binary::<i32>().value(row)),
            DataType::FixedSizeBinary(_) => {
                out.put_slice(array.as_fixed_size_binary().value(row));
            }
            DataType::Date32 => {
                out.put_i32(array.as_primitive::<Date32Type>().value(row) - EPOCH_DAYS);
            }
            DataType::Time64(_) => {
                out.put_i64(array.as_primitive::<Time64MicrosecondType>().value(row));
            }
            DataType::Timestamp(..) => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
                out.put_i64(micros.saturating_sub(EPOCH_MICROS));
            }
            DataType::Interval(_) => {
                let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                out.put_i64(value.nanoseconds / 1000);
                out.put_i32(value.days);
                out.put_i32(value.months);
            }
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                self.array_binary(row, out)?;
            }
            _ => return self.text(row, out),
        }
        Ok(true)
    }

    fn items(&self, row: usize) -> Result<(Self, usize), ArrowError> {
        let items = match self.array.data_type() {
            DataType::LargeList(_) => self.array.as_list::<i64>().value(row),
            DataType::FixedSizeList(..) => self.array.as_fixed_size_list().value(row),
            _ => self.array.as_list::<i32>().value(row),
        };
        let ty = of_arrow(items.data_type());
        let items = if ty == Type::TEXT && *items.data_type() != DataType::Utf8 {
            text_of(&items)?
        } else {
            items
        };
        let zone = self.zone.unwrap_or(utc()?);
        let count = items.len();
        Ok((Self::new(&items, &ty, zone)?, count))
    }

    fn array_text(&self, row: usize, out: &mut BytesMut) -> Result<(), ArrowError> {
        let (items, count) = self.items(row)?;
        let mut item = BytesMut::new();
        out.put_u8(b'{');
        for i in 0..count {
            if i > 0 {
                out.put_u8(b',');
            }
            item.clear();
            if !items.text(i, &mut item)? {
                out.put_slice(b"NULL");
                continue;
            }
            let plain = !item.is_empty()
                && !item.eq_ignore_ascii_case(b"null")
                && !item.iter().any(|b| b"{},\"\\ \t\n\r".contains(b));
            if plain {
                out.put_slice(&item);
                continue;
            }
            out.put_u8(b'"');
            for byte in &item {
                if matches!(byte, b'"' | b'\\') {
                    out.put_u8(b'\\');
                }
                out.put_u8(*byte);
            }
            out.put_u8(b'"');
        }
        out.put_u8(b'}');
        Ok(())
    }

    fn array_binary(&self, row: usize, out: &mut BytesMut) -> Result<(), ArrowError> {
        let (items, count) = self.items(row)?;
        let too_long = |_| ArrowError::ComputeError("the array is too long".into());
        let length = i32::try_from(count).map_err(too_long)?;
        out.put_i32(i32::from(count > 0));
        out.put_i32(i32::from(items.array.null_count() > 0));
        out.put_u32(items.ty.oid());
        if count > 0 {
            out.put_i32(length);
            out.put_i32(1);
        }
        for i in 0..count {
            with_length(out, |out| items.binary(i, out))?;
        }
        Ok(())
    }
}

fn text_of(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default().with_null("");
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    let texts: datafusion::arrow::array::StringArray = (0..array.len())
        .map(|i| array.is_valid(i).then(|| formatter.value(i).to_string()))
        .collect();
    Ok(std::sync::Arc::new(texts))
}

/// Writes a value with its length before it, -1 for none.
pub(crate) fn with_length(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<bool, ArrowError>,
) -> Result<(), ArrowError> {
    let start = out.len();
    out.put_i32(-1);
    if write(out)? {
        let length = i32::try_from(out.len() - start - 4)
            .map_err(|_| ArrowError::ComputeError("the value is too long".into()))?;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// The zone timestamps are shown in unless a connection says otherwise.
pub(crate) fn utc() -> Result<Tz, ArrowError> {
    "+00:00".parse()
}

struct Text<'a>(&'a mut BytesMut);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.put_slice(text.as_bytes());
        Ok(())
    }
}

/// The shortest digits that read back, with an exponent where PostgreSQL writes one.
fn float_text(value: f64, shortest: &str) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..15).contains(&exponent) {
        let (sign, digits) = match mantissa.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", mantissa),
        };
        return format!("{sign}{}", plain_digits(&digits.replace('.', ""), exponent));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn plain_digits(digits: &str, exponent: i32) -> String {
    let Ok(whole) = usize::try_from(exponent + 1) else {
        return format!("0.{}{digits}", "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0)));
    };
    if whole == 0 {
        return format!("0.{digits}");
    }
    if digits.len() <= whole {
        return format!("{digits}{}", "0".repeat(whole - digits.len()));
    }
    format!("{}.{}", &digits[..whole], &digits[whole..])
}

fn date_of(days: i32) -> Result<NaiveDate, ArrowError> {
    NaiveDate::from_epoch_days(days)
        .ok_or_else(|| ArrowError::ComputeError("the date is out of range".into()))
}

fn time_of(micros: i64) -> Result<NaiveTime, ArrowError> {
    let out_of_range = || ArrowError::ComputeError("the time is out of range".into());
    let seconds = u32::try_from(micros.div_euclid(1_000_000)).map_err(|_| out_of_range())?;
    let nanos = u32::try_from(micros.rem_euclid(1_000_000) * 1000).map_err(|_| out_of_range())?;
    NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos).ok_or_else(out_of_range)
}

fn date_text(date: NaiveDate) -> String {
    let (common, year) = date.year_ce();
    let text = format!("{year:04}-{:02}-{:02}", date.month(), date.day());
    if common { text } else { format!("{text} BC") }
}

fn time_text(time: NaiveTime) -> String {
    let text = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
    match time.nanosecond() / 1000 {
        0 => text,
        micros => format!("{text}.{}", format!("{micros:06}").trim_end_matches('0')),
    }
}

fn timestamp_text(micros: i64, zone: Option<Tz>) -> Result<String, ArrowError> {
    let utc = DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| ArrowError::ComputeError("the timestamp is out of range".into()))?;
    let (local, offset) = match zone {
        None => (utc.naive_utc(), None),
        Some(zone) => {
            let fixed: FixedOffset = zone.offset_from_utc_datetime(&utc.naive_utc()).fix();
            (utc.with_timezone(&fixed).naive_local(), Some(fixed.local_minus_utc()))
        }
    };
    let mut text = format!("{} {}", date_text(local.date()), time_text(local.time()));
    if let Some(seconds) = offset {
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        let _ = write!(text, "{sign}{:02}", minutes / 60);
        if minutes % 60 != 0 {
            let _ = write!(text, ":{:02}", minutes % 60);
        }
    }
    Ok(text)
}

fn interval_text(months: i32, days: i32, micros: i64) -> String {
    let mut parts = Vec::new();
    let mut count = |value: i32, one: &str| {
        if value != 0 {
            parts.push(format!("{value} {one}{}", if value == 1 { "" } else { "s" }));
        }
    };
    count(months / 12, "year");
    count(months % 12, "mon");
    count(days, "day");
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 { "-" } else { "" };
        let all = micros.unsigned_abs();
        let (hours, minutes) = (all / 3_600_000_000, all / 60_000_000 % 60);
        let (seconds, fraction) = (all / 1_000_000 % 60, all % 1_000_000);
        let mut time = format!("{sign}{hours:02}:{minutes:02}:{seconds:02}");
        if fraction != 0 {
            let _ = write!(time, ".{}", format!("{fraction:06}").trim_end_matches('0'));
        }
        parts.push(time);
    }
    parts.join(" ")
}

/// PostgreSQL's binary numeric: groups of four decimal digits from the point outwards.
fn put_numeric(text: &str, out: &mut BytesMut) {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let lead = (4 - whole.len() % 4) % 4;
    let trail = (4 - fraction.len() % 4) % 4;
    let padded = format!("{}{whole}{fraction}{}", "0".repeat(lead), "0".repeat(trail)).into_bytes();
    let groups: Vec<i16> = padded
        .chunks(4)
        .map(|chunk| chunk.iter().fold(0, |sum, digit| sum * 10 + i16::from(digit - b'0')))
        .collect();
    let whole_groups = (whole.len() + lead) / 4;
    let first = groups.iter().position(|g| *g != 0).unwrap_or(groups.len());
    let last = groups.iter().rposition(|g| *g != 0).map_or(first, |at| at + 1);
    let small = |n: usize| i16::try_from(n).unwrap_or(i16::MAX);
    let used = &groups[first..last];
    out.put_i16(small(used.len()));
    out.put_i16(if used.is_empty() { 0 } else { small(whole_groups) - small(first) - 1 });
    out.put_i16(if negative && !used.is_empty() { 0x4000 } else { 0 });
    out.put_i16(small(fraction.len()));
    for group in used {
        out.put_i16(*group);
    }
}

#[cfg(test)]
mod tests;
