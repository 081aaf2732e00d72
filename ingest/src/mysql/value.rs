//! Values of selects, as the decoders of the binlog would make them.

use mysql_async::Value;
use uuid::Uuid;

use super::{
    buffer::Buffer,
    charset::Charset,
    column::{Decoder, Fault, no_such_day, text_of, well_known},
    number,
};
use crate::calendar;

/// Appends a value that came over the binary protocol, text in UTF-8.
pub(crate) fn append(decoder: &Decoder, value: &Value, out: &mut Buffer) -> Result<(), Fault> {
    let unreadable = || Fault::Value("came in a form that is not its type's".to_owned());
    match (decoder, value) {
        (_, Value::NULL) => out.push_null(),
        (Decoder::Int { .. } | Decoder::Year, value) => {
            let value = whole(value).and_then(|v| i32::try_from(v).ok());
            out.push_i32(value.ok_or_else(unreadable)?);
        }
        (Decoder::UnsignedInt | Decoder::BigInt, value) => {
            let value = whole(value).and_then(|v| i64::try_from(v).ok());
            out.push_i64(value.ok_or_else(unreadable)?);
        }
        (Decoder::UnsignedBigInt, value) => out.push_decimal(whole(value).ok_or_else(unreadable)?),
        (Decoder::Float, Value::Float(value)) => out.push_f32(*value),
        (Decoder::Double, Value::Double(value)) => out.push_f64(*value),
        (Decoder::Decimal { scale, .. }, Value::Bytes(text)) => {
            out.push_decimal(decimal(text, *scale).ok_or_else(unreadable)?);
        }
        (Decoder::Bit, Value::Bytes(bits)) => {
            out.push_bool(bits.last().is_some_and(|b| b & 1 == 1))
        }
        (Decoder::Bits { .. }, Value::Bytes(bits)) => out.push_i64(big(bits).cast_signed()),
        (Decoder::AllBits, Value::Bytes(bits)) => out.push_decimal(i128::from(big(bits))),
        (Decoder::Date { required }, Value::Date(year, month, day, ..)) => {
            match number::days(u32::from(*year), u32::from(*month), u32::from(*day)) {
                Some(days) => out.push_i32(days),
                None => no_such_day(*required, out)?,
            }
        }
        (Decoder::Time { .. } | Decoder::OldTime, Value::Time(negative, days, h, m, s, micro)) => {
            let hours = i64::from(*days) * 24 + i64::from(*h);
            let seconds = hours * 3600 + i64::from(*m) * 60 + i64::from(*s);
            let micros = seconds * 1_000_000 + i64::from(*micro);
            out.push_i64(if *negative { -micros } else { micros });
        }
        (
            Decoder::DateTime { required, .. }
            | Decoder::OldDateTime { required }
            | Decoder::Timestamp { required, .. }
            | Decoder::OldTimestamp { required },
            Value::Date(year, month, day, h, m, s, micro),
        ) => {
            let date = [u32::from(*year), u32::from(*month), u32::from(*day)];
            match number::micros(date, [u32::from(*h), u32::from(*m), u32::from(*s)], *micro) {
                Some(micros) => out.push_i64(micros),
                None => no_such_day(*required, out)?,
            }
        }
        (
            Decoder::Text { charset: Charset::Binary, .. }
            | Decoder::Fixed { .. }
            | Decoder::Compressed { charset: Charset::Binary, .. },
            Value::Bytes(bytes),
        ) => text_of(bytes, Charset::Binary, out)?,
        (Decoder::Uuid { .. }, Value::Bytes(text)) => {
            let uuid = Uuid::try_parse_ascii(text).map_err(|_| unreadable())?;
            out.push_uuid(uuid.into_bytes());
        }
        (Decoder::Geometry { .. }, Value::Bytes(bytes)) => {
            text_of(well_known(bytes)?, Charset::Binary, out)?;
        }
        (
            Decoder::Text { .. }
            | Decoder::Compressed { .. }
            | Decoder::Enum { .. }
            | Decoder::Set { .. }
            | Decoder::Json { .. }
            | Decoder::Address { .. }
            | Decoder::DecimalText { .. },
            Value::Bytes(bytes),
        ) => text_of(bytes, Charset::Utf8, out)?,
        _ => return Err(unreadable()),
    }
    Ok(())
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::UInt(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |all, &byte| all << 8 | u64::from(byte))
}

/// A decimal's digits without the point, from its text.
fn decimal(text: &[u8], scale: u8) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let missing = usize::from(scale).checked_sub(fraction.len())?;
    format!("{whole}{fraction}{:0<missing$}", "").parse().ok()
}

/// `YYYY-MM-DD hh:mm:ss.ffffff` of microseconds since 1970.
pub(crate) fn moment_text(micros: i64) -> String {
    let (days, of_day) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let [year, month, day] = calendar::date(days);
    let seconds = of_day / 1_000_000;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        of_day % 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_they_were_read() {
        for date in [[1, 1, 1], [1969, 12, 31], [1970, 1, 1], [2000, 2, 29], [9999, 12, 31]] {
            let micros = number::micros(date, [23, 4, 5], 6).unwrap();
            let [year, month, day] = date;
            let expected = format!("{year:04}-{month:02}-{day:02} 23:04:05.000006");
            assert_eq!(moment_text(micros), expected);
        }
    }
}
