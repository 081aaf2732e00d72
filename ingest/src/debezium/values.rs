//! Values as Debezium writes them, one at a time.

use crate::{calendar::days, debezium::problem::Problem, hex};

/// PostgreSQL's infinities as its driver gives them, in whatever unit; kept as they are.
pub(crate) const INFINITY: i64 = 9_223_372_036_825_200_000;
pub(crate) const NEGATIVE_INFINITY: i64 = -9_223_372_036_832_400_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The alphabet a text of bytes is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BinaryHandling {
    /// Base64, as any bytes in JSON.
    Bytes,
    /// Base64.
    Base64,
    /// Base64 in the alphabet for URLs.
    Base64UrlSafe,
    /// Hexadecimal digits.
    Hex,
}

/// Reads bytes that are written as text into `into`.
pub(crate) fn bytes(
    text: &str,
    alphabet: BinaryHandling,
    into: &mut Vec<u8>,
) -> Result<(), Problem> {
    into.clear();
    if alphabet == BinaryHandling::Hex {
        return hex::decode(text.as_bytes(), into)
            .ok_or_else(|| Problem::cell("bytes in hexadecimal digits"));
    }
    base64(text, into).ok_or_else(|| Problem::cell("bytes in base64"))
}

/// Either alphabet, padded or not.
fn base64(text: &str, into: &mut Vec<u8>) -> Option<()> {
    if text.ends_with('=') && !text.len().is_multiple_of(4) {
        return None;
    }
    let text = text.trim_end_matches('=');
    into.reserve(text.len() / 4 * 3 + 3);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for &byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, a, b, c] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            4 => into.extend_from_slice(&[a, b, c]),
            3 => into.extend_from_slice(&[a, b]),
            2 => into.push(a),
            _ => return None,
        }
    }
    Some(())
}

/// Base64 of bytes, padded.
pub(crate) fn to_base64(bytes: &[u8], url: bool) -> String {
    let alphabet: &[u8; 64] = if url {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    } else {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    };
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            if place <= group.len() {
                let index = bits >> (18 - 6 * place) & 63;
                text.push(char::from(alphabet[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// A decimal number: its digits as one number, and how many of them are after the point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    /// Decimal digits, the first not 0; empty for 0.
    digits: Vec<u8>,
    scale: i32,
}

impl Decimal {
    /// From a number as JSON or SQL write it.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, exponent) = match text.find(['e', 'E']) {
            Some(at) => (text.get(..at)?, text.get(at + 1..)?.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut digits = Vec::with_capacity(number.len());
        for byte in whole.bytes().chain(fraction.bytes()) {
            match byte {
                b'0' if digits.is_empty() => {}
                b'0'..=b'9' => digits.push(byte),
                _ => return None,
            }
        }
        // No exponent a real number has is beyond this; what is made of it stays small.
        if !(-100_000..=100_000).contains(&exponent) {
            return None;
        }
        let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        Some(Self { negative, digits, scale })
    }

    /// From the big-endian two's complement of its digits as one number; none when it is longer than
    /// what any database has, so that no message keeps the decoder busy for long.
    pub(crate) fn from_unscaled(bytes: &[u8], scale: i32) -> Option<Self> {
        if bytes.len() > 4096 || scale.abs() > 100_000 {
            return None;
        }
        let negative = bytes.first().is_some_and(|b| *b >= 0x80);
        let mut magnitude = bytes.to_vec();
        if negative {
            let mut carry = true;
            for byte in magnitude.iter_mut().rev() {
                (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
            }
        }
        let mut digits = Vec::new();
        // Divided by ten to the 18th again and again, from the lowest digits up.
        const BASE: u128 = 1_000_000_000_000_000_000;
        while magnitude.iter().any(|b| *b != 0) {
            let mut remainder = 0_u128;
            for byte in &mut magnitude {
                let value = remainder << 8 | u128::from(*byte);
                *byte = u8::try_from(value / BASE).unwrap_or(u8::MAX);
                remainder = value % BASE;
            }
            for _ in 0..18 {
                digits.push(b'0' + u8::try_from(remainder % 10).unwrap_or(0));
                remainder /= 10;
            }
            let used = magnitude.iter().position(|b| *b != 0).unwrap_or(magnitude.len());
            magnitude.drain(..used);
        }
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        digits.reverse();
        Some(Self { negative, digits, scale })
    }

    /// The digits as one number when `scale` of them are after the point; none when that loses any,
    /// or when there are more than `precision`.
    pub(crate) fn to_i128(&self, precision: u8, scale: u8) -> Option<i128> {
        let mut digits = self.digits.as_slice();
        let mut append = i32::from(scale) - self.scale;
        while append < 0 && !digits.is_empty() {
            digits = digits.strip_suffix(b"0")?;
            append += 1;
        }
        if digits.is_empty() {
            return Some(0);
        }
        let count = digits.len() + usize::try_from(append).ok()?;
        if count > usize::from(precision.min(38)) {
            return None;
        }
        let mut value = 0_i128;
        for digit in digits {
            value = value * 10 + i128::from(digit - b'0');
        }
        for _ in 0..append {
            value *= 10;
        }
        Some(if self.negative { -value } else { value })
    }

    /// Its one way of being written: no exponent, every digit after the point that it came with.
    pub(crate) fn to_text(&self) -> String {
        let mut digits: Vec<u8> = self.digits.clone();
        let scale = usize::try_from(self.scale).unwrap_or(0);
        if self.scale < 0 && !digits.is_empty() {
            digits.resize(digits.len() + usize::try_from(-self.scale).unwrap_or(0), b'0');
        }
        if digits.len() <= scale {
            let zeros = scale + 1 - digits.len();
            digits.splice(..0, std::iter::repeat_n(b'0', zeros));
        }
        let mut text = String::with_capacity(digits.len() + 2);
        if self.negative && !self.digits.is_empty() {
            text.push('-');
        }
        for (at, digit) in digits.iter().enumerate() {
            if at == digits.len() - scale {
                text.push('.');
            }
            text.push(char::from(*digit));
        }
        text
    }
}

/// What one unit of a number of a time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// In microseconds, when that loses nothing.
    pub(crate) fn micros(self, value: i64) -> Result<i64, Problem> {
        match (self, value) {
            (_, INFINITY) | (Self::Nanos, i64::MAX) => Ok(INFINITY),
            (_, NEGATIVE_INFINITY) | (Self::Nanos, i64::MIN) => Ok(NEGATIVE_INFINITY),
            (Self::Millis, value) => value
                .checked_mul(1000)
                .ok_or_else(|| Problem::cell("within the range of a timestamp in microseconds")),
            (Self::Micros, value) => Ok(value),
            (Self::Nanos, value) if value % 1000 == 0 => Ok(value / 1000),
            (Self::Nanos, _) => Err(Problem::cell("a whole number of microseconds")),
        }
    }
}

/// Microseconds since midnight.
pub(crate) fn time_of_day(hour: i64, minute: i64, second: i64, nanos: i64) -> Option<i64> {
    let fits = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    (fits && (0..1_000_000_000).contains(&nanos) && nanos % 1000 == 0)
        .then(|| (hour * 3600 + minute * 60 + second) * 1_000_000 + nanos / 1000)
}

/// A date and time in microseconds since 1970.
pub(crate) fn timestamp(days: i64, time: i64) -> Option<i64> {
    i64::try_from(i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(time)).ok()
}

/// `2017-09-15`, a zone after it being ignored as Debezium always writes `Z`; the year may have a
/// sign and more than four digits.
pub(crate) fn iso_date(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut parts = text.split('-');
    let mut number = |digits: usize| {
        let part = parts.next().filter(|p| p.len() >= digits)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok())?
    };
    let found = days(sign * number(4)?, number(2)?, number(2)?);
    parts.next().is_none().then_some(found)?
}

/// `04:05:11.789`, seconds and fraction optional, and the offset of its zone in seconds, if it
/// has any.
pub(crate) fn iso_time(text: &str) -> Option<(i64, Option<i64>)> {
    let zone = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (clock, zone) = (text.get(..zone)?, text.get(zone..)?);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = clock.split(':');
    let mut two = || {
        let part = parts.next().unwrap_or("00");
        (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<i64>().ok())?
    };
    let (hour, minute, second) = (two()?, two()?, two()?);
    if parts.next().is_some() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    let offset = match zone {
        "" => None,
        "Z" | "z" => Some(0),
        _ => {
            let (time, _) = iso_time(zone.get(1..)?)?;
            Some(if zone.starts_with('-') { -time / 1_000_000 } else { time / 1_000_000 })
        }
    };
    Some((time_of_day(hour, minute, second, nanos)?, offset))
}

/// `2018-06-20T13:37:03.5Z`, with the offset of its zone taken off.
pub(crate) fn iso_timestamp(text: &str) -> Option<i64> {
    match text {
        "infinity" | "+infinity" => return Some(INFINITY),
        "-infinity" => return Some(NEGATIVE_INFINITY),
        _ => {}
    }
    let at = text.find(['T', 't', ' '])?;
    let days = iso_date(text.get(..at)?)?;
    let (time, offset) = iso_time(text.get(at + 1..)?)?;
    timestamp(days, time)?.checked_sub(offset.unwrap_or(0) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_at_any_length() {
        let unscaled = |base64, scale| {
            let mut bytes = Vec::new();
            super::bytes(base64, BinaryHandling::Bytes, &mut bytes).unwrap();
            Decimal::from_unscaled(&bytes, scale).unwrap().to_text()
        };
        assert_eq!(unscaled("Jw8=", 2), "99.99");
        assert_eq!(unscaled("/w==", 2), "-0.01");
        assert_eq!(unscaled("gA==", 0), "-128");
        assert_eq!(unscaled("AA==", 3), "0.000");
        assert_eq!(unscaled("", 0), "0");
        assert_eq!(unscaled("BQ==", -2), "500");
        let long = Decimal::from_unscaled(&[0x7f; 40], 0).unwrap().to_text();
        let expected = "1063805308086100315545755908562874974723699899369\
                        783928561859938013419235977024901383985039376255";
        assert_eq!(long, expected);
        let text = |text: &str| Decimal::from_text(text).map(|d| d.to_text());
        for (from, to) in [
            ("-0012.50", "-12.50"),
            ("1.5e3", "1500"),
            ("1.5E-3", "0.0015"),
            ("-0", "0"),
            (".5", "0.5"),
            ("2222222222222222300000001111.1234567890", "2222222222222222300000001111.1234567890"),
        ] {
            assert_eq!(text(from).as_deref(), Some(to), "{from}");
        }
        for wrong in ["", "-", ".", "1e", "1e999999999", "NaN", "1,5", "0x1", "1.2.3"] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
        let fits = |text, p, s| Decimal::from_text(text).unwrap().to_i128(p, s);
        assert_eq!(fits("1.50", 3, 1), Some(15));
        assert_eq!(fits("1.55", 3, 1), None);
        assert_eq!(fits("1000", 3, 0), None);
        assert_eq!(
            fits("-99999999999999999999999999999999999999", 38, 0),
            Some(1 - 10_i128.pow(38))
        );
        assert_eq!(fits("1e100000", 38, 0), None);
    }

    #[test]
    fn bytes_come_back_from_every_alphabet() {
        let mut into = Vec::new();
        for length in 0..20_u8 {
            let value: Vec<u8> = (0..length).map(|i| i.wrapping_mul(77) ^ 0xf3).collect();
            for (text, alphabet) in [
                (to_base64(&value, false), BinaryHandling::Base64),
                (to_base64(&value, true), BinaryHandling::Base64UrlSafe),
                (value.iter().map(|b| format!("{b:02x}")).collect(), BinaryHandling::Hex),
            ] {
                bytes(&text, alphabet, &mut into).unwrap();
                assert_eq!(into, value, "{text}");
            }
        }
        for wrong in ["A", "A*==", "AAAAA", "AAAA="] {
            assert!(bytes(wrong, BinaryHandling::Bytes, &mut into).is_err(), "{wrong}");
        }
        assert!(bytes("abc", BinaryHandling::Hex, &mut into).is_err());
    }

    #[test]
    fn days_agree_with_known_ones() {
        for (text, day) in [
            ("1970-01-01", Some(0)),
            ("2023-03-23Z", Some(19439)),
            ("2000-02-29", Some(11016)),
            ("0001-01-01", Some(-719_162)),
            ("9999-12-31", Some(2_932_896)),
            ("-4712-01-01", Some(-2_440_550)),
            ("2023-02-29", None),
            ("2023-13-01", None),
            ("2023-00-01", None),
            ("2023-1-1", None),
            ("0000-00-00", None),
        ] {
            assert_eq!(iso_date(text), day, "{text}");
        }
    }

    #[test]
    fn times_are_read_to_the_microsecond() {
        let millis = 1_529_501_823_000_000;
        assert_eq!(iso_timestamp("2018-06-20T13:37:03Z"), Some(millis));
        assert_eq!(iso_timestamp("2018-06-20T06:37:03-07:00"), Some(millis));
        assert_eq!(iso_timestamp("2018-06-20 13:37:03.000001"), Some(millis + 1));
        assert_eq!(iso_timestamp("2018-06-20T13:37:03.0000001Z"), None);
        assert_eq!(iso_timestamp("2018-06-20T24:00:00Z"), None);
        assert_eq!(iso_timestamp("infinity"), Some(INFINITY));
        assert_eq!(Unit::Nanos.micros(i64::MAX).unwrap(), INFINITY);
        assert_eq!(Unit::Millis.micros(INFINITY).unwrap(), INFINITY);
        assert!(Unit::Millis.micros(i64::MAX / 10).is_err());
        assert!(Unit::Nanos.micros(1).is_err());
        assert_eq!(iso_time("04:05:11.789Z"), Some((14_711_789_000, Some(0))));
    }
}
