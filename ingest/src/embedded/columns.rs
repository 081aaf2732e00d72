use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Float64Builder, Int32Builder,
        Int64Builder, StringBuilder, TimestampMicrosecondBuilder, new_null_array,
    },
    error::ArrowError,
    record_batch::RecordBatch,
};
use medlake_contract::{ColumnType, TableSchema};
use serde::de::{DeserializeSeed, Error, IgnoredAny, SeqAccess, Unexpected, Visitor};

use crate::{calendar, hex};

/// Rows of one table on their way from JSON arrays into Arrow columns.
///
/// A row goes straight from the text into the column builders: no JSON tree is made.
pub(crate) struct Columns {
    builders: Vec<Builder>,
    row_count: usize,
    /// Null rows at the end that are not in the builders yet: one side of an insert or a delete is
    /// all null, so long runs of them are appended at once.
    pending_nulls: usize,
}

/// Where decoding stopped: the column it was at, or past the last one.
pub(crate) struct RowError {
    pub(crate) column: usize,
    pub(crate) source: serde_json::Error,
}

impl Columns {
    pub(crate) fn new(table: &TableSchema) -> Self {
        let builders = table.columns().iter().map(|c| Builder::new(&c.ty)).collect();
        Self { builders, row_count: 0, pending_nulls: 0 }
    }

    pub(crate) fn push_null(&mut self) {
        self.pending_nulls += 1;
        self.row_count += 1;
    }

    /// Appends the row in `json`. Columns it lacks at its end are null: it was written before they
    /// were added.
    ///
    /// After an error the columns are of unequal length and must be thrown away.
    pub(crate) fn push_row(&mut self, json: &[u8]) -> Result<(), RowError> {
        self.write_pending();
        let mut column = 0;
        let mut text = serde_json::Deserializer::from_slice(json);
        let row = Row { builders: &mut self.builders, column: &mut column };
        row.deserialize(&mut text)
            .and_then(|()| text.end())
            .map_err(|source| RowError { column, source })?;
        self.row_count += 1;
        Ok(())
    }

    pub(crate) fn finish(mut self, table: &TableSchema) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = if self.pending_nulls == self.row_count {
            // Zeroed pages that are never touched take no memory; a copy of a whole database is
            // all inserts, with nothing before them.
            let types = table.columns().iter().map(|c| c.ty.arrow());
            types.map(|ty| new_null_array(&ty, self.row_count)).collect()
        } else {
            self.write_pending();
            self.builders.iter_mut().map(Builder::finish).collect()
        };
        RecordBatch::try_new(Arc::clone(table.arrow_nullable()), columns)
    }

    fn write_pending(&mut self) {
        if self.pending_nulls > 0 {
            for builder in &mut self.builders {
                builder.push_nulls(self.pending_nulls);
            }
            self.pending_nulls = 0;
        }
    }
}

enum Builder {
    Boolean(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Utf8(StringBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

/// Runs one expression on whichever builder it is.
macro_rules! each {
    ($builder:expr, $b:ident => $e:expr) => {
        match $builder {
            Builder::Boolean($b) => $e,
            Builder::Int32($b) => $e,
            Builder::Int64($b) => $e,
            Builder::Float64($b) => $e,
            Builder::Utf8($b) => $e,
            Builder::Date($b) => $e,
            Builder::Timestamp($b) => $e,
            Builder::Binary($b) => $e,
        }
    };
}

impl Builder {
    #[expect(
        clippy::panic,
        reason = "a source maps declared types to these alone; a new one must be decided here"
    )]
    fn new(ty: &ColumnType) -> Self {
        match ty {
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::Int32 => Self::Int32(Int32Builder::new()),
            ColumnType::Int64 => Self::Int64(Int64Builder::new()),
            ColumnType::Float64 => Self::Float64(Float64Builder::new()),
            ColumnType::Utf8 => Self::Utf8(StringBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::TimestampMicros => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(ty.arrow()))
            }
            ColumnType::Binary => Self::Binary(BinaryBuilder::new()),
            other => panic!("no builder for column type {other:?}"),
        }
    }

    fn push_nulls(&mut self, count: usize) {
        each!(self, b => b.append_nulls(count));
    }

    fn finish(&mut self) -> ArrayRef {
        each!(self, b => Arc::new(b.finish()))
    }
}

/// Reads one JSON array into all builders.
struct Row<'a> {
    builders: &'a mut [Builder],
    column: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array with the row's columns")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<(), A::Error> {
        let mut ended = false;
        for builder in self.builders {
            if ended {
                builder.push_nulls(1);
            } else if row.next_element_seed(Cell(builder))?.is_none() {
                ended = true;
                builder.push_nulls(1);
            }
            *self.column += 1;
        }
        if !ended && row.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("the row has more columns than the table"));
        }
        Ok(())
    }
}

/// Reads one value into one builder. The value stays out of error messages: it may be a patient's.
struct Cell<'a>(&'a mut Builder);

const OTHER_INTEGER: &str = "an integer that does not fit";

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Builder::Boolean(_) => "0, 1 or null",
            Builder::Int32(_) => "a 32-bit integer or null",
            Builder::Int64(_) => "a 64-bit integer or null",
            Builder::Float64(_) => "a number or null",
            Builder::Utf8(_) => "text or null",
            Builder::Date(_) => "a date as text yyyy-mm-dd or null",
            Builder::Timestamp(_) => "microseconds since 1970 as an integer or null",
            Builder::Binary(_) => "hexadecimal text or null",
        })
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push_nulls(1);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.0 {
            Builder::Boolean(b) => b.append_value(value),
            _ => return Err(E::invalid_type(Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match self.0 {
            Builder::Int64(b) => b.append_value(value),
            Builder::Timestamp(b) => b.append_value(value),
            Builder::Boolean(b) if value == 0 || value == 1 => b.append_value(value == 1),
            Builder::Int32(b) => match i32::try_from(value) {
                Ok(value) => b.append_value(value),
                Err(_) => return Err(E::invalid_value(Unexpected::Other(OTHER_INTEGER), &self)),
            },
            _ => return Err(E::invalid_value(Unexpected::Other(OTHER_INTEGER), &self)),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Other(OTHER_INTEGER), &self)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.0 {
            Builder::Float64(b) => b.append_value(value),
            _ => return Err(E::invalid_type(Unexpected::Other("a fraction"), &self)),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        let wrong = Unexpected::Other("other text");
        match self.0 {
            Builder::Utf8(b) => b.append_value(value),
            Builder::Float64(b) => match value.parse() {
                Ok(value) => b.append_value(value),
                Err(_) => return Err(E::invalid_value(wrong, &self)),
            },
            Builder::Date(b) => match days_since_1970(value) {
                Some(days) => b.append_value(days),
                None => return Err(E::invalid_value(wrong, &self)),
            },
            Builder::Binary(b) => match bytes_of_hex(value) {
                Some(bytes) => b.append_value(bytes),
                None => return Err(E::invalid_value(wrong, &self)),
            },
            _ => return Err(E::invalid_type(Unexpected::Other("text"), &self)),
        }
        Ok(())
    }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    hex::decode(text.as_bytes(), &mut bytes).map(|()| bytes)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, years 0000 to 9999.
fn days_since_1970(text: &str) -> Option<i32> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return None };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let days = calendar::days(number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?);
    i32::try_from(days?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_counted_in_days() {
        for (text, days) in [
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-02-29", Some(11_016)),
            ("2026-11-21", Some(20_778)),
            ("0001-01-01", Some(-719_162)),
            ("9999-12-31", Some(2_932_896)),
            ("1900-02-29", None),
            ("2026-13-01", None),
            ("2026-00-10", None),
            ("2026-04-31", None),
            ("2026-4-1", None),
            ("2026-04-01T00:00", None),
            ("２026-04-0", None),
            ("", None),
        ] {
            assert_eq!(days_since_1970(text), days, "{text}");
        }
    }

    #[test]
    fn hexadecimal_text_is_bytes() {
        assert_eq!(bytes_of_hex(""), Some(vec![]));
        assert_eq!(bytes_of_hex("00fFA5"), Some(vec![0, 255, 0xa5]));
        for wrong in ["0", "0g", "é"] {
            assert_eq!(bytes_of_hex(wrong), None, "{wrong}");
        }
    }
}
