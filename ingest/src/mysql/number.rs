//! Decimals and times as MySQL packs them into bytes that sort
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html>, `strings/decimal.cc`).

use super::{bytes::Bytes, column::Fault};
use crate::calendar;

/// Bytes that so many decimal digits take.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
const GROUP: i128 = 1_000_000_000;

/// The digits of a decimal, group by group: how many there are in a group, and their number.
fn groups(
    bytes: &mut Bytes<'_>,
    precision: u8,
    scale: u8,
    mut each: impl FnMut(usize, u32) -> Result<(), Fault>,
) -> Result<bool, Fault> {
    let whole = usize::from(precision.checked_sub(scale).ok_or_else(|| wrong("a decimal"))?);
    let scale = usize::from(scale);
    let lengths = [whole % 9]
        .into_iter()
        .chain(std::iter::repeat_n(9, whole / 9 + scale / 9))
        .chain([scale % 9])
        .filter(|digits| *digits > 0);
    let size = |digits: usize| digits / 9 * 4 + DIGIT_BYTES[digits % 9];
    let mut left = Bytes::new(bytes.take(size(whole) + size(scale))?);
    let Some(first) = left.rest().first() else { return Ok(false) };
    let negative = first & 0x80 == 0;
    let mut sign = 0x80_u32;
    for digits in lengths {
        let length = DIGIT_BYTES[digits];
        let mut value = 0_u32;
        for &byte in left.take(length)? {
            value = value << 8 | u32::from(byte) ^ sign ^ if negative { 0xff } else { 0 };
            sign = 0;
        }
        if u64::from(value) >= 10_u64.pow(u32::try_from(digits).unwrap_or(9)) {
            return Err(wrong("a decimal"));
        }
        each(digits, value)?;
    }
    Ok(negative)
}

fn wrong(what: &'static str) -> Fault {
    Fault::Value(format!("holds bytes that are not {what}"))
}

/// A decimal of at most 38 digits, as its digits without the point.
pub(crate) fn decimal(bytes: &mut Bytes<'_>, precision: u8, scale: u8) -> Result<i128, Fault> {
    let mut value = 0_i128;
    let negative = groups(bytes, precision, scale, |digits, group| {
        let shift =
            if digits == 9 { GROUP } else { 10_i128.pow(u32::try_from(digits).unwrap_or(9)) };
        value = value.checked_mul(shift).ok_or_else(|| wrong("a decimal"))? + i128::from(group);
        Ok(())
    })?;
    Ok(if negative { -value } else { value })
}

/// A decimal of any size as text, without leading zeros and with all digits after the point.
pub(crate) fn decimal_text(
    bytes: &mut Bytes<'_>,
    precision: u8,
    scale: u8,
) -> Result<String, Fault> {
    let mut digits = String::new();
    let negative = groups(bytes, precision, scale, |count, group| {
        digits.push_str(&format!("{group:0count$}"));
        Ok(())
    })?;
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(usize::from(scale)));
    let whole = whole.trim_start_matches('0');
    let zero = digits.bytes().all(|digit| digit == b'0');
    let sign = if negative && !zero { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{fraction}"))
}

/// Days since 1970-01-01 of a date; none when there is no such day, as the zero date and days of
/// month 0.
pub(crate) fn days(year: u32, month: u32, day: u32) -> Option<i32> {
    let days = calendar::days(year.into(), month.into(), day.into()).filter(|_| year <= 9999)?;
    i32::try_from(days).ok()
}

/// Microseconds since 1970-01-01 00:00:00 of a date and time of day, if there is such a day.
pub(crate) fn micros(date: [u32; 3], time: [u32; 3], micro: u32) -> Option<i64> {
    let [hour, minute, second] = time;
    if hour > 23 || minute > 59 || second > 59 || micro > 999_999 {
        return None;
    }
    let day = i64::from(days(date[0], date[1], date[2])?);
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    Some((day * 86_400 + seconds) * 1_000_000 + i64::from(micro))
}

/// The fraction of a second after a time of `digits` digits.
fn fraction(bytes: &mut Bytes<'_>, digits: u8) -> Result<u32, Fault> {
    let length = usize::from(digits.div_ceil(2));
    let unit = match length {
        0 => 0,
        1 => 10_000,
        2 => 100,
        _ => 1,
    };
    let value = u32::try_from(bytes.big(length.min(3))?).unwrap_or(u32::MAX);
    Ok(value.saturating_mul(unit))
}

/// Microseconds since 1970 of a `datetime`; none when there is no such day.
pub(crate) fn datetime(bytes: &mut Bytes<'_>, digits: u8) -> Result<Option<i64>, Fault> {
    let packed = bytes.big(5)?;
    let micro = fraction(bytes, digits)?;
    Ok(unpacked(packed & 0x7f_ffff_ffff, micro))
}

/// What `year * 13 + month`, day, hour, minute and second in 17, 5, 5, 6 and 6 bits are.
fn unpacked(packed: u64, micro: u32) -> Option<i64> {
    let bits =
        |shift: u32, count: u32| u32::try_from(packed >> shift & ((1 << count) - 1)).unwrap_or(0);
    let months = bits(22, 17);
    let date = [months / 13, months % 13, bits(17, 5)];
    micros(date, [bits(12, 5), bits(6, 6), bits(0, 6)], micro)
}

/// Microseconds since 1970 of a `timestamp`; none for zero.
pub(crate) fn timestamp(bytes: &mut Bytes<'_>, digits: u8) -> Result<Option<i64>, Fault> {
    let seconds = i64::try_from(bytes.big(4)?).unwrap_or(0);
    let micro = i64::from(fraction(bytes, digits)?);
    Ok((seconds != 0 || micro != 0).then_some(seconds * 1_000_000 + micro))
}

/// Microseconds of a `time`, which may be negative or more than a day.
pub(crate) fn time(bytes: &mut Bytes<'_>, digits: u8) -> Result<i64, Fault> {
    // All bytes are one number, shifted to be positive; what is after the point has two digits a
    // byte.
    let length = usize::from(digits.div_ceil(2)).min(3);
    let number = i64::try_from(bytes.big(3 + length)?).unwrap_or(0) - (1 << (23 + 8 * length));
    let (magnitude, negative) = (number.unsigned_abs(), number < 0);
    let fraction = magnitude & ((1 << (8 * length)) - 1);
    let packed = magnitude >> (8 * length);
    let unit = [0, 10_000, 100, 1][length];
    let seconds = (packed >> 12 & 0x3ff) * 3600 + (packed >> 6 & 0x3f) * 60 + (packed & 0x3f);
    let micros = i64::try_from(seconds * 1_000_000 + fraction * unit).unwrap_or(0);
    Ok(if negative { -micros } else { micros })
}

/// The text of a `date`, `datetime` or `time` as JSON documents hold it.
pub(crate) fn packed_text(ty: u8, packed: i64) -> String {
    use super::table_map::wire;
    let sign = if packed < 0 { "-" } else { "" };
    let magnitude = packed.unsigned_abs();
    let (whole, micro) = (magnitude >> 24, magnitude & 0xff_ffff);
    let (minute, second) = (whole >> 6 & 0x3f, whole & 0x3f);
    if ty == wire::TIME {
        let hour = whole >> 12 & 0x3ff;
        return format!("{sign}{hour:02}:{minute:02}:{second:02}.{micro:06}");
    }
    let (months, day, hour) = (whole >> 22, whole >> 17 & 0x1f, whole >> 12 & 0x1f);
    let date = format!("{:04}-{:02}-{day:02}", months / 13, months % 13);
    if ty == wire::DATE {
        return date;
    }
    format!("{date} {hour:02}:{minute:02}:{second:02}.{micro:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_as_the_manual_packs_them() {
        // decimal(14,4), from the comment of `decimal2bin`.
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(decimal(&mut Bytes::new(&bytes), 14, 4), Ok(12_345_678_901_234));
        let bytes = [0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d];
        assert_eq!(decimal(&mut Bytes::new(&bytes), 14, 4), Ok(-12_345_678_901_234));
        let text = decimal_text(&mut Bytes::new(&bytes), 14, 4);
        assert_eq!(text.as_deref(), Ok("-1234567890.1234"));
        assert!(matches!(decimal(&mut Bytes::new(&bytes[..6]), 14, 4), Err(Fault::Short)));
        assert!(matches!(decimal(&mut Bytes::new(&[0xff; 7]), 14, 4), Err(Fault::Value(_))));
        assert!(decimal(&mut Bytes::new(&[0xff; 40]), 3, 200).is_err());
    }

    #[test]
    fn days_are_counted_from_1970() {
        for (date, expected) in [
            ([1970, 1, 1], Some(0)),
            ([2000, 3, 1], Some(11_017)),
            ([2024, 2, 29], Some(19_782)),
            ([1, 1, 1], Some(-719_162)),
            ([9999, 12, 31], Some(2_932_896)),
            ([0, 0, 0], None),
            ([2023, 2, 29], None),
            ([2023, 0, 1], None),
        ] {
            assert_eq!(days(date[0], date[1], date[2]), expected, "{date:?}");
        }
    }

    #[test]
    fn times_have_a_sign_and_a_fraction() {
        // -00:00:01.10 in time(2), and -838:59:59 in time(0), as in `my_time.cc`.
        assert_eq!(time(&mut Bytes::new(&[0x7f, 0xff, 0xfe, 0xf6]), 2), Ok(-1_100_000));
        let longest = (838 * 3600 + 59 * 60 + 59) * 1_000_000;
        assert_eq!(time(&mut Bytes::new(&[0x4b, 0x91, 0x05]), 0), Ok(-longest));
        assert_eq!(time(&mut Bytes::new(&[0x80, 0, 1]), 0), Ok(1_000_000));
    }
}
