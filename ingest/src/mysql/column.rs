//! What a column of MySQL is here, and how its values are read: chosen once for each table map.

use std::{io::Read as _, net::Ipv4Addr};

use flate2::read::{DeflateDecoder, ZlibDecoder};
use medlake_contract::{Column, ColumnType};

use super::{
    address,
    buffer::Buffer,
    bytes::{Bytes, Short},
    charset::{self, Charset},
    json, number,
    table_map::{FixedBytes, WireColumn, wire},
};

/// Why a value could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes end before the value does: nothing after it can be found.
    Short,
    /// The value is none of its column's; what comes after it can be read.
    Value(String),
}

impl From<Short> for Fault {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// Reads the values of one column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decoder {
    /// Whole numbers of so many bytes that fit 32 bits with their sign.
    Int {
        bytes: u8,
        unsigned: bool,
    },
    /// `int unsigned`.
    UnsignedInt,
    BigInt,
    UnsignedBigInt,
    Float,
    Double,
    Year,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// With more digits than numbers have here.
    DecimalText {
        precision: u8,
        scale: u8,
    },
    /// `bit(1)`.
    Bit,
    Bits {
        bytes: u8,
    },
    /// `bit(64)`.
    AllBits,
    Date {
        required: bool,
    },
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
        required: bool,
    },
    Timestamp {
        digits: u8,
        required: bool,
    },
    /// As servers before 5.6 and tables made by them have them.
    OldTime,
    OldDateTime {
        required: bool,
    },
    OldTimestamp {
        required: bool,
    },
    Text {
        prefix: u8,
        charset: Charset,
    },
    /// `binary(n)`: zeros at its end are left out on the wire.
    Fixed {
        prefix: u8,
        length: u16,
    },
    /// MariaDB's `uuid`, which is a `binary(16)` on the wire.
    Uuid {
        prefix: u8,
    },
    /// MariaDB's `inet6` and `inet4`: a `binary(n)` on the wire.
    Address {
        prefix: u8,
        length: u16,
    },
    /// MariaDB's compressed columns.
    Compressed {
        prefix: u8,
        charset: Charset,
    },
    Enum {
        bytes: u8,
        words: Vec<String>,
    },
    Set {
        bytes: u8,
        words: Vec<String>,
    },
    Json {
        prefix: u8,
    },
    Geometry {
        prefix: u8,
    },
}

/// What a column is here.
///
/// # Errors
/// What cannot be read, and why.
pub(crate) fn of(column: &WireColumn, in_key: bool) -> Result<(Column, Decoder), String> {
    let [high, low] = column.meta.to_be_bytes();
    let charset = || {
        charset::of_collation(column.collation).ok_or_else(|| {
            format!(
                "column \"{}\" has the collation number {}, of a character set that is not known \
                 here",
                column.name, column.collation
            )
        })
    };
    let words = || -> Result<Vec<String>, String> {
        let charset = charset()?;
        let text = |word: &Vec<u8>| charset.text(word);
        column.members.iter().map(text).collect::<Option<_>>().ok_or_else(|| {
            format!("the words of column \"{}\" are not in its character set", column.name)
        })
    };
    let texts = |charset: Charset| match charset {
        Charset::Binary => ColumnType::Binary,
        _ => ColumnType::Utf8,
    };
    let int = |bytes| (ColumnType::Int32, Decoder::Int { bytes, unsigned: column.unsigned });
    let digits = low.min(6);
    let required = in_key;
    let (ty, decoder) = match column.ty {
        wire::TINY => int(1),
        wire::SHORT => int(2),
        wire::INT24 => int(3),
        wire::LONG if column.unsigned => (ColumnType::Int64, Decoder::UnsignedInt),
        wire::LONG => int(4),
        wire::LONGLONG if column.unsigned => {
            (ColumnType::Decimal { precision: 20, scale: 0 }, Decoder::UnsignedBigInt)
        }
        wire::LONGLONG => (ColumnType::Int64, Decoder::BigInt),
        wire::FLOAT => (ColumnType::Float32, Decoder::Float),
        wire::DOUBLE => (ColumnType::Float64, Decoder::Double),
        wire::YEAR => (ColumnType::Int32, Decoder::Year),
        wire::NEWDECIMAL => {
            let (precision, scale) = (high, low);
            if scale > precision || precision > 65 || precision == 0 {
                return Err(format!("column \"{}\" is a decimal of no size", column.name));
            }
            match precision {
                ..=38 => (
                    ColumnType::Decimal { precision, scale },
                    Decoder::Decimal { precision, scale },
                ),
                _ => (ColumnType::Utf8, Decoder::DecimalText { precision, scale }),
            }
        }
        wire::BIT => {
            // The lower byte counts the bits of a byte that is not full.
            let bits = u16::from(high) * 8 + u16::from(low);
            match bits {
                1 => (ColumnType::Boolean, Decoder::Bit),
                0 | 65.. => return Err(format!("column \"{}\" has {bits} bits", column.name)),
                64 => (ColumnType::Decimal { precision: 20, scale: 0 }, Decoder::AllBits),
                _ => (ColumnType::Int64, Decoder::Bits { bytes: high + u8::from(low > 0) }),
            }
        }
        wire::DATE | wire::NEWDATE => (ColumnType::Date, Decoder::Date { required }),
        wire::TIME2 => (ColumnType::Int64, Decoder::Time { digits }),
        wire::TIME => (ColumnType::Int64, Decoder::OldTime),
        wire::DATETIME2 => {
            (ColumnType::LocalTimestampMicros, Decoder::DateTime { digits, required })
        }
        wire::DATETIME => (ColumnType::LocalTimestampMicros, Decoder::OldDateTime { required }),
        wire::TIMESTAMP2 => (ColumnType::TimestampMicros, Decoder::Timestamp { digits, required }),
        wire::TIMESTAMP => (ColumnType::TimestampMicros, Decoder::OldTimestamp { required }),
        wire::VARCHAR | wire::STRING | wire::VAR_STRING => {
            let charset = charset()?;
            let prefix = 1 + u8::from(column.meta > 255);
            let length = column.meta;
            match column.bytes {
                _ if column.ty != wire::STRING || charset != Charset::Binary => {
                    (texts(charset), Decoder::Text { prefix, charset })
                }
                FixedBytes::Uuid if length == 16 => (ColumnType::Uuid, Decoder::Uuid { prefix }),
                FixedBytes::Address => (ColumnType::Utf8, Decoder::Address { prefix, length }),
                _ => (ColumnType::Binary, Decoder::Fixed { prefix, length }),
            }
        }
        wire::VARCHAR_COMPRESSED => {
            let charset = charset()?;
            let prefix = 1 + u8::from(column.meta > 255);
            (texts(charset), Decoder::Compressed { prefix, charset })
        }
        wire::TINY_BLOB..=wire::BLOB => {
            let charset = charset()?;
            (texts(charset), Decoder::Text { prefix: low, charset })
        }
        wire::BLOB_COMPRESSED => {
            let charset = charset()?;
            (texts(charset), Decoder::Compressed { prefix: low, charset })
        }
        wire::VECTOR => {
            (ColumnType::Binary, Decoder::Text { prefix: low, charset: Charset::Binary })
        }
        wire::ENUM => (ColumnType::Utf8, Decoder::Enum { bytes: low.clamp(1, 2), words: words()? }),
        wire::SET => (ColumnType::Utf8, Decoder::Set { bytes: low.clamp(1, 8), words: words()? }),
        wire::JSON => (ColumnType::Utf8, Decoder::Json { prefix: low }),
        wire::GEOMETRY => (ColumnType::Binary, Decoder::Geometry { prefix: low }),
        other => return Err(format!("column \"{}\" is of type {other}", column.name)),
    };
    if let Decoder::Text { prefix, .. } | Decoder::Json { prefix } | Decoder::Geometry { prefix } =
        decoder
        && !(1..=4).contains(&prefix)
    {
        return Err(format!("column \"{}\" has lengths of {prefix} bytes", column.name));
    }
    // A column that is added to rows there are has nothing in theirs until they are copied again, and a day
    // that does not exist is null.
    Ok((Column { name: column.name.to_ascii_lowercase(), ty, nullable: !in_key }, decoder))
}

/// A moment, or null for one that is no moment; where null may not be, that is a fault.
#[inline]
fn moment(value: Option<i64>, required: bool, out: &mut Buffer) -> Result<(), Fault> {
    match value {
        Some(value) => out.push_i64(value),
        None => no_such_day(required, out)?,
    }
    Ok(())
}

pub(super) fn no_such_day(required: bool, out: &mut Buffer) -> Result<(), Fault> {
    if required {
        return Err(Fault::Value("is a day that does not exist, in a key".to_owned()));
    }
    out.push_null();
    Ok(())
}

impl Decoder {
    /// Reads one value, which is not null, and appends it. After a [`Fault::Value`] `bytes` are
    /// after the value, and nothing is appended.
    #[inline]
    pub(crate) fn read(&self, bytes: &mut Bytes<'_>, out: &mut Buffer) -> Result<(), Fault> {
        match self {
            Self::Int { bytes: 4, .. } => out.push_i32(bytes.u32()?.cast_signed()),
            Self::Int { bytes: length, unsigned } => {
                let length = usize::from(*length);
                let value = u32::try_from(bytes.little(length)?).unwrap_or(0);
                // The sign is the highest bit of as many bytes as there are.
                let shift = if *unsigned { 0 } else { 32 - 8 * u32::try_from(length).unwrap_or(4) };
                out.push_i32((value << shift).cast_signed() >> shift);
            }
            Self::UnsignedInt => out.push_i64(i64::from(bytes.u32()?)),
            Self::BigInt => out.push_i64(bytes.u64()?.cast_signed()),
            Self::UnsignedBigInt => out.push_decimal(i128::from(bytes.u64()?)),
            Self::Float => out.push_f32(f32::from_bits(bytes.u32()?)),
            Self::Double => out.push_f64(f64::from_bits(bytes.u64()?)),
            Self::Year => {
                let year = i32::from(bytes.u8()?);
                out.push_i32(if year == 0 { 0 } else { year + 1900 });
            }
            Self::Decimal { precision, scale } => {
                out.push_decimal(number::decimal(bytes, *precision, *scale)?);
            }
            Self::DecimalText { precision, scale } => {
                let text = number::decimal_text(bytes, *precision, *scale)?;
                text_of(text.as_bytes(), Charset::Utf8, out)?;
            }
            Self::Bit => out.push_bool(bytes.u8()? & 1 == 1),
            Self::Bits { bytes: length } => {
                out.push_i64(bytes.big(usize::from(*length))?.cast_signed());
            }
            Self::AllBits => out.push_decimal(i128::from(bytes.big(8)?)),
            Self::Date { required } => {
                let packed = bytes.u24()?;
                match number::days(packed >> 9, packed >> 5 & 15, packed & 31) {
                    Some(days) => out.push_i32(days),
                    None => no_such_day(*required, out)?,
                }
            }
            Self::Time { digits } => out.push_i64(number::time(bytes, *digits)?),
            Self::DateTime { digits, required } => {
                moment(number::datetime(bytes, *digits)?, *required, out)?;
            }
            Self::Timestamp { digits, required } => {
                moment(number::timestamp(bytes, *digits)?, *required, out)?;
            }
            Self::OldTime => {
                let value = i64::from((bytes.u24()? << 8).cast_signed() >> 8);
                let (size, sign) = (value.abs(), value.signum());
                let seconds = size / 10_000 * 3600 + size / 100 % 100 * 60 + size % 100;
                out.push_i64(sign * seconds * 1_000_000);
            }
            Self::OldDateTime { required } => {
                let value = bytes.u64()?;
                let part =
                    |unit: u64, size: u64| u32::try_from(value / unit % size).unwrap_or(u32::MAX);
                let date =
                    [part(10_000_000_000, 1 << 32), part(100_000_000, 100), part(1_000_000, 100)];
                let time = [part(10_000, 100), part(100, 100), part(1, 100)];
                moment(number::micros(date, time, 0), *required, out)?;
            }
            Self::OldTimestamp { required } => {
                let seconds = i64::from(bytes.u32()?);
                moment((seconds != 0).then_some(seconds * 1_000_000), *required, out)?;
            }
            Self::Text { prefix, charset } => text_of(prefixed(bytes, *prefix)?, *charset, out)?,
            Self::Fixed { prefix, length } => {
                let value = prefixed(bytes, *prefix)?;
                let missing = usize::from(*length).saturating_sub(value.len());
                out.push_bytes(|bytes| {
                    bytes.extend_from_slice(value);
                    bytes.resize(bytes.len() + missing, 0);
                    true
                });
            }
            Self::Uuid { prefix } => out.push_uuid(filled(prefixed(bytes, *prefix)?)?),
            Self::Address { prefix, length: 4 } => {
                let address = Ipv4Addr::from(filled(prefixed(bytes, *prefix)?)?);
                text_of(address.to_string().as_bytes(), Charset::Utf8, out)?;
            }
            Self::Address { prefix, .. } => {
                let text = address::ipv6(filled(prefixed(bytes, *prefix)?)?);
                text_of(text.as_bytes(), Charset::Utf8, out)?;
            }
            Self::Compressed { prefix, charset } => {
                let value = uncompressed_value(prefixed(bytes, *prefix)?)?;
                text_of(&value, *charset, out)?;
            }
            Self::Enum { bytes: length, words } => {
                let index = usize::try_from(bytes.little(usize::from(*length))?).unwrap_or(0);
                // 0 is what a server stores for a word it does not have, and shows as empty.
                let word = match index.checked_sub(1) {
                    None => "",
                    Some(index) => words.get(index).ok_or_else(|| unknown_word(index + 1))?,
                };
                text_of(word.as_bytes(), Charset::Utf8, out)?;
            }
            Self::Set { bytes: length, words } => {
                let set = bytes.little(usize::from(*length))?;
                if words.len() < 64 && set >> words.len() != 0 {
                    return Err(unknown_word(
                        64 - usize::try_from(set.leading_zeros()).unwrap_or(0),
                    ));
                }
                let chosen = (0..64).filter(|i| set >> i & 1 == 1);
                out.push_bytes(|bytes| {
                    for (i, word) in chosen.filter_map(|i: usize| words.get(i)).enumerate() {
                        if i > 0 {
                            bytes.push(b',');
                        }
                        bytes.extend_from_slice(word.as_bytes());
                    }
                    true
                });
            }
            Self::Json { prefix } => {
                let text = json::text(prefixed(bytes, *prefix)?)?;
                text_of(text.as_bytes(), Charset::Utf8, out)?;
            }
            Self::Geometry { prefix } => {
                text_of(well_known(prefixed(bytes, *prefix)?)?, Charset::Binary, out)?;
            }
        }
        Ok(())
    }
}

/// Fixed bytes with the zeros at their end that are left out on the wire.
fn filled<const N: usize>(value: &[u8]) -> Result<[u8; N], Fault> {
    let mut all = [0; N];
    let Some(start) = all.get_mut(..value.len()) else {
        return Err(Fault::Value(format!("holds more than {N} bytes")));
    };
    start.copy_from_slice(value);
    Ok(all)
}

/// A geometry without the four bytes before it that number its reference system.
pub(super) fn well_known(value: &[u8]) -> Result<&[u8], Fault> {
    value
        .get(4..)
        .ok_or_else(|| Fault::Value("is a geometry without a reference system".to_owned()))
}

#[inline]
pub(super) fn text_of(value: &[u8], charset: Charset, out: &mut Buffer) -> Result<(), Fault> {
    if out.push_bytes(|bytes| charset.append(value, bytes)) {
        Ok(())
    } else {
        Err(Fault::Value("holds bytes that are not text in its character set".to_owned()))
    }
}

#[inline]
fn prefixed<'a>(bytes: &mut Bytes<'a>, prefix: u8) -> Result<&'a [u8], Short> {
    let length = bytes.little(usize::from(prefix.min(4)))?;
    bytes.take(usize::try_from(length).map_err(|_| Short)?)
}

fn unknown_word(number: usize) -> Fault {
    Fault::Value(format!("holds word {number}, which it does not have"))
}

/// A value of MariaDB's compressed columns: how it is compressed and how many bytes tell its length,
/// that length, and the rest (`sql/field.cc`, `Field_longstr::compress`).
fn uncompressed_value(value: &[u8]) -> Result<Vec<u8>, Fault> {
    let wrong = || Fault::Value("holds bytes that are not compressed".to_owned());
    let Some((&head, rest)) = value.split_first() else { return Ok(Vec::new()) };
    if head == 0 {
        return Ok(rest.to_vec());
    }
    if head >> 4 != 8 {
        return Err(wrong());
    }
    let mut rest = Bytes::new(rest);
    let length = rest.big(usize::from(head & 7)).map_err(|_| wrong())?;
    if length > LONGEST {
        return Err(wrong());
    }
    let mut out = Vec::new();
    let read = if head & 8 == 8 {
        DeflateDecoder::new(rest.rest()).take(length).read_to_end(&mut out)
    } else {
        ZlibDecoder::new(rest.rest()).take(length).read_to_end(&mut out)
    };
    match read {
        Ok(read) if read as u64 == length => Ok(out),
        _ => Err(wrong()),
    }
}

/// A server does not send more in one event (`max_allowed_packet`).
const LONGEST: u64 = 1 << 30;

/// What `log_bin_compress` made of an event's bytes: a byte that tells how many bytes the length has,
/// the length, the highest byte first, and zlib (`sql/log_event.cc`, `binlog_buf_uncompress`).
pub(crate) fn uncompressed(bytes: &[u8]) -> Result<Vec<u8>, Short> {
    let mut bytes = Bytes::new(bytes);
    let head = bytes.u8()?;
    if head & 0x80 == 0 || head & 0x70 != 0 {
        return Err(Short);
    }
    let length = bytes.big(usize::from(head & 7))?;
    if length > LONGEST {
        return Err(Short);
    }
    let mut out = Vec::new();
    match ZlibDecoder::new(bytes.rest()).take(length).read_to_end(&mut out) {
        Ok(read) if read as u64 == length => Ok(out),
        _ => Err(Short),
    }
}
