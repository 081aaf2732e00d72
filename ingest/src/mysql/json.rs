//! MySQL's binary form of JSON documents, as the text the server would show
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html>).

use std::fmt::Write as _;

use super::{
    bytes::{Bytes, Short},
    column::Fault,
    number,
    table_map::wire,
};

/// As deep as MySQL lets documents be.
const DEPTH: u32 = 100;

/// The text of a document. A column that was never written to is empty, and JSON's null.
pub(crate) fn text(document: &[u8]) -> Result<String, Fault> {
    let mut printer = Printer {
        out: String::new(),
        // Numbers, escapes and base64 take no more; documents that refer to one value many times
        // are not ones a server wrote.
        limit: document.len().saturating_mul(16).saturating_add(1024),
    };
    match document.split_first() {
        None => printer.out.push_str("null"),
        Some((kind, value)) => printer.value(*kind, value, DEPTH)?,
    }
    Ok(printer.out)
}

struct Printer {
    out: String,
    limit: usize,
}

fn wrong(what: &str) -> Fault {
    Fault::Value(format!("holds a JSON document with {what}"))
}

impl Printer {
    fn value(&mut self, kind: u8, value: &[u8], depth: u32) -> Result<(), Fault> {
        if self.out.len() > self.limit {
            return Err(wrong("values that overlap"));
        }
        let mut bytes = Bytes::new(value);
        match kind {
            0 => self.container(value, 2, true, depth),
            1 => self.container(value, 4, true, depth),
            2 => self.container(value, 2, false, depth),
            3 => self.container(value, 4, false, depth),
            4 => self.literal(bytes.u8()?),
            5 => self.print(bytes.u16()?.cast_signed()),
            6 => self.print(bytes.u16()?),
            7 => self.print(bytes.u32()?.cast_signed()),
            8 => self.print(bytes.u32()?),
            9 => self.print(bytes.u64()?.cast_signed()),
            10 => self.print(bytes.u64()?),
            11 => self.double(f64::from_bits(bytes.u64()?)),
            12 => {
                let length = length(&mut bytes)?;
                self.string(bytes.take(length)?)
            }
            15 => {
                let kind = bytes.u8()?;
                let length = length(&mut bytes)?;
                self.opaque(kind, bytes.take(length)?)
            }
            _ => Err(wrong("a value of an unknown type")),
        }
    }

    fn container(
        &mut self,
        value: &[u8],
        width: usize,
        object: bool,
        depth: u32,
    ) -> Result<(), Fault> {
        let depth = depth.checked_sub(1).ok_or_else(|| wrong("more than 100 levels"))?;
        let size = |number: u64| usize::try_from(number).map_err(|_| Fault::Short);
        let mut head = Bytes::new(value);
        let count = size(head.little(width)?)?;
        let end = size(head.little(width)?)?;
        let value = value.get(..end).ok_or(Short)?;
        let mut keys = head;
        if object {
            head.take(count.checked_mul(width + 2).ok_or(Short)?)?;
        }
        self.out.push(if object { '{' } else { '[' });
        for i in 0..count {
            if i > 0 {
                self.out.push_str(", ");
            }
            if object {
                let (at, length) = (size(keys.little(width)?)?, usize::from(keys.u16()?));
                let end = at.checked_add(length).ok_or(Short)?;
                self.string(value.get(at..end).ok_or(Short)?)?;
                self.out.push_str(": ");
            }
            let kind = head.u8()?;
            let entry = head.take(width)?;
            // Small values are in their entry; of others it says where they are.
            if matches!(kind, 4..=6) || width == 4 && matches!(kind, 7 | 8) {
                self.value(kind, entry, depth)?;
            } else {
                let at = size(Bytes::new(entry).little(width)?)?;
                self.value(kind, value.get(at..).ok_or(Short)?, depth)?;
            }
        }
        self.out.push(if object { '}' } else { ']' });
        Ok(())
    }

    fn literal(&mut self, literal: u8) -> Result<(), Fault> {
        self.out.push_str(match literal {
            0 => "null",
            1 => "true",
            2 => "false",
            _ => return Err(wrong("an unknown literal")),
        });
        Ok(())
    }

    fn print(&mut self, value: impl std::fmt::Display) -> Result<(), Fault> {
        write!(self.out, "{value}").map_err(|_| wrong("a value that cannot be shown"))
    }

    fn double(&mut self, value: f64) -> Result<(), Fault> {
        if !value.is_finite() {
            return Err(wrong("a number that is not finite"));
        }
        let size = value.abs();
        if value == 0.0 || (1e-15..1e15).contains(&size) {
            self.print(format_args!("{value:?}"))
        } else {
            self.print(format_args!("{value:e}"))
        }
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("text that is not UTF-8"))?;
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\t' => self.out.push_str("\\t"),
                '\n' => self.out.push_str("\\n"),
                '\u{c}' => self.out.push_str("\\f"),
                '\r' => self.out.push_str("\\r"),
                control @ '\0'..='\u{1f}' => {
                    self.print(format_args!("\\u{:04x}", u32::from(control)))?;
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
        Ok(())
    }

    /// A value of a type that JSON itself does not have.
    fn opaque(&mut self, kind: u8, value: &[u8]) -> Result<(), Fault> {
        let mut bytes = Bytes::new(value);
        match kind {
            wire::NEWDECIMAL => {
                let (precision, scale) = (bytes.u8()?, bytes.u8()?);
                let text = number::decimal_text(&mut bytes, precision, scale)?;
                self.out.push_str(&text);
            }
            wire::DATE | wire::DATETIME | wire::TIMESTAMP | wire::TIME => {
                let text = number::packed_text(kind, bytes.u64()?.cast_signed());
                self.out.push('"');
                self.out.push_str(&text);
                self.out.push('"');
            }
            _ => {
                self.print(format_args!("\"base64:type{kind}:"))?;
                self.base64(value);
                self.out.push('"');
            }
        }
        Ok(())
    }

    fn base64(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for chunk in bytes.chunks(3) {
            let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
            let word = at(0) << 16 | at(1) << 8 | at(2);
            for digit in 0..4_usize {
                if digit > chunk.len() {
                    self.out.push('=');
                } else {
                    let index = (word >> (18 - 6 * digit)) & 0x3f;
                    self.out.push(char::from(DIGITS[usize::try_from(index).unwrap_or(0)]));
                }
            }
        }
    }
}

/// A length in seven bits a byte, the lowest first.
fn length(bytes: &mut Bytes<'_>) -> Result<usize, Fault> {
    let mut length = 0_usize;
    for i in 0..5 {
        let byte = bytes.u8()?;
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(wrong("a length that has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_printed_as_the_server_prints_them() {
        // {"a": 1, "b": [true, null, "x\n"], "c": 1.5} in the small form.
        let mut inner = vec![3, 0, 0, 0, 4, 1, 0, 4, 0, 0, 12, 13, 0];
        inner.extend([2, b'x', b'\n']);
        let length = u8::try_from(inner.len()).unwrap();
        inner[2] = length;
        let head = 4 + 3 * 4 + 3 * 3;
        let (keys, array) = (head, head + 3);
        let double = array + length;
        let mut document = vec![0, 3, 0, double + 8, 0];
        for i in 0..3 {
            document.extend([keys + i, 0, 1, 0]);
        }
        document.extend([5, 1, 0, 2, array, 0, 11, double, 0]);
        document.extend(b"abc");
        document.extend(&inner);
        document.extend(1.5_f64.to_le_bytes());
        let expected = r#"{"a": 1, "b": [true, null, "x\n"], "c": 1.5}"#;
        assert_eq!(text(&document).as_deref(), Ok(expected));
        for end in 1..document.len() {
            assert!(text(&document[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn values_of_sql_types_are_readable() {
        let opaque = |kind, value: &[u8]| {
            let mut document = vec![15, kind, u8::try_from(value.len()).unwrap()];
            document.extend(value);
            text(&document)
        };
        let decimal = [14, 4, 0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d];
        assert_eq!(opaque(wire::NEWDECIMAL, &decimal).as_deref(), Ok("-1234567890.1234"));
        let months = (2015_i64 * 13 + 1) << 5 | 15;
        let moment = (months << 17 | 23 << 12 | 24 << 6 | 25) << 24 | 120_000;
        let expected = "\"2015-01-15 23:24:25.120000\"";
        assert_eq!(opaque(wire::DATETIME, &moment.to_le_bytes()).as_deref(), Ok(expected));
        assert_eq!(opaque(wire::DATE, &moment.to_le_bytes()).as_deref(), Ok("\"2015-01-15\""));
        let time = (23_i64 << 12 | 24 << 6 | 25) << 24;
        assert_eq!(opaque(wire::TIME, &time.to_le_bytes()).as_deref(), Ok("\"23:24:25.000000\""));
        assert_eq!(opaque(wire::BLOB, b"abcd").as_deref(), Ok("\"base64:type252:YWJjZA==\""));
    }

    #[test]
    fn a_document_that_contains_itself_ends() {
        // An array whose two elements are the array.
        assert!(text(&[2, 2, 0, 10, 0, 2, 0, 0, 2, 0, 0]).is_err());
    }
}
