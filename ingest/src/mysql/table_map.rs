//! The event that says what the rows after it look like
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Table__map__event.html>).

use medlake_contract::ColumnType;

use super::{
    bytes::{Bytes, Short},
    connect::Flavour,
};

/// The types of columns as they are numbered on the wire.
pub(crate) mod wire {
    pub(crate) const TINY: u8 = 1;
    pub(crate) const SHORT: u8 = 2;
    pub(crate) const LONG: u8 = 3;
    pub(crate) const FLOAT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const TIMESTAMP: u8 = 7;
    pub(crate) const LONGLONG: u8 = 8;
    pub(crate) const INT24: u8 = 9;
    pub(crate) const DATE: u8 = 10;
    pub(crate) const TIME: u8 = 11;
    pub(crate) const DATETIME: u8 = 12;
    pub(crate) const YEAR: u8 = 13;
    pub(crate) const NEWDATE: u8 = 14;
    pub(crate) const VARCHAR: u8 = 15;
    pub(crate) const BIT: u8 = 16;
    pub(crate) const TIMESTAMP2: u8 = 17;
    pub(crate) const DATETIME2: u8 = 18;
    pub(crate) const TIME2: u8 = 19;
    /// MariaDB's compressed columns.
    pub(crate) const BLOB_COMPRESSED: u8 = 140;
    pub(crate) const VARCHAR_COMPRESSED: u8 = 141;
    pub(crate) const VECTOR: u8 = 242;
    pub(crate) const JSON: u8 = 245;
    pub(crate) const NEWDECIMAL: u8 = 246;
    pub(crate) const ENUM: u8 = 247;
    pub(crate) const SET: u8 = 248;
    pub(crate) const TINY_BLOB: u8 = 249;
    pub(crate) const BLOB: u8 = 252;
    pub(crate) const VAR_STRING: u8 = 253;
    pub(crate) const STRING: u8 = 254;
    pub(crate) const GEOMETRY: u8 = 255;
}

/// The collation of what is no text.
pub(crate) const BYTES: u32 = 63;

/// A table as the binlog describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMap {
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<WireColumn>,
    /// The columns of the primary key.
    pub(crate) key: Vec<usize>,
    /// Whether columns have names: with `binlog_row_metadata=FULL` they do.
    pub(crate) named: bool,
    /// Whether signs and character sets are told.
    pub(crate) typed: bool,
}

/// A column as the binlog describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WireColumn {
    pub(crate) name: String,
    /// One of [`wire`].
    pub(crate) ty: u8,
    /// What it means depends on the type: a length, precision and scale, digits of a fraction.
    pub(crate) meta: u16,
    pub(crate) unsigned: bool,
    /// Number of the collation of text, or [`BYTES`].
    pub(crate) collation: u32,
    /// Words of an enum or set, in the column's character set.
    pub(crate) members: Vec<Vec<u8>>,
    pub(crate) bytes: FixedBytes,
}

/// What a fixed number of bytes is. MariaDB's `uuid`, `inet6` and `inet4` are `binary(n)` in a table map,
/// which has no word for them: what a column is, the catalog says, and statements that define it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FixedBytes {
    #[default]
    Plain,
    Uuid,
    /// An address of the internet.
    Address,
}

impl FixedBytes {
    /// What those are that come as this type.
    pub(crate) fn of(ty: &ColumnType) -> Self {
        match ty {
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Utf8 => Self::Address,
            _ => Self::Plain,
        }
    }

    /// What they come as.
    pub(crate) fn ty(self) -> ColumnType {
        match self {
            Self::Uuid => ColumnType::Uuid,
            Self::Address => ColumnType::Utf8,
            Self::Plain => ColumnType::Binary,
        }
    }
}

impl WireColumn {
    fn is_numeric(&self) -> bool {
        matches!(
            self.ty,
            wire::TINY
                | wire::SHORT
                | wire::INT24
                | wire::LONG
                | wire::LONGLONG
                | wire::NEWDECIMAL
                | wire::FLOAT
                | wire::DOUBLE
        )
    }

    fn is_text(&self) -> bool {
        matches!(
            self.ty,
            wire::VARCHAR | wire::STRING | wire::VAR_STRING | wire::TINY_BLOB
                ..=wire::BLOB | wire::BLOB_COMPRESSED | wire::VARCHAR_COMPRESSED
        )
    }

    /// Whether it could be a [`FixedBytes::Uuid`] or a [`FixedBytes::Address`].
    pub(crate) fn may_be_more_than_bytes(&self) -> bool {
        self.ty == wire::STRING && self.collation == BYTES && matches!(self.meta, 4 | 16)
    }

    fn is_choice(&self) -> bool {
        matches!(self.ty, wire::ENUM | wire::SET)
    }
}

/// The number a table map and the rows after it share.
pub(crate) fn table_id(body: &[u8]) -> Result<u64, Short> {
    Bytes::new(body).little(6)
}

/// Reads the body of the event. Text that is not UTF-8 is cut short, too.
pub(crate) fn read(body: &[u8], flavour: Flavour) -> Result<TableMap, Short> {
    let mut bytes = Bytes::new(body);
    bytes.take(8)?;
    let mut name = || {
        let length = bytes.u8()?;
        let name = bytes.take(usize::from(length))?;
        bytes.take(1)?;
        String::from_utf8(name.to_vec()).map_err(|_| Short)
    };
    let (database, table) = (name()?, name()?);
    let count = usize::try_from(bytes.packed()?).map_err(|_| Short)?;
    let types = bytes.take(count)?;
    let mut meta = Bytes::new(bytes.packed_bytes()?);
    // Which may be null.
    bytes.take(count.div_ceil(8))?;
    let mut columns = Vec::with_capacity(count);
    for &ty in types {
        let (ty, meta) = real(ty, &mut meta)?;
        columns.push(WireColumn { ty, meta, ..WireColumn::default() });
    }
    let mut map =
        TableMap { database, table, columns, key: Vec::new(), named: false, typed: false };
    while !bytes.is_empty() {
        let kind = bytes.u8()?;
        let value = Bytes::new(bytes.packed_bytes()?);
        map.tell(kind, value, flavour)?;
    }
    if map.key.iter().any(|&at| at >= map.columns.len()) {
        return Err(Short);
    }
    Ok(map)
}

/// A column's type and what more is said of it.
fn real(ty: u8, meta: &mut Bytes<'_>) -> Result<(u8, u16), Short> {
    match ty {
        wire::FLOAT
        | wire::DOUBLE
        | wire::TIMESTAMP2
        | wire::DATETIME2
        | wire::TIME2
        | wire::BLOB_COMPRESSED
        | wire::VECTOR
        | wire::JSON
        | wire::TINY_BLOB..=wire::BLOB
        | wire::GEOMETRY => Ok((ty, u16::from(meta.u8()?))),
        wire::VARCHAR | wire::VARCHAR_COMPRESSED | wire::BIT => Ok((ty, meta.u16()?)),
        // The higher byte first: digits, then digits after the point.
        wire::NEWDECIMAL => {
            let (digits, scale) = (meta.u8()?, meta.u8()?);
            Ok((ty, u16::from(digits) << 8 | u16::from(scale)))
        }
        wire::STRING | wire::VAR_STRING | wire::ENUM | wire::SET => {
            let (kind, length) = (meta.u8()?, u16::from(meta.u8()?));
            // Two bits of a length over 255 hide, inverted, in the type.
            if kind & 0x30 == 0x30 {
                Ok((kind, length))
            } else {
                Ok((kind | 0x30, length | u16::from(kind & 0x30 ^ 0x30) << 4))
            }
        }
        // MySQL 8 indexes arrays inside JSON; no column a table shows has that type.
        20 => Err(Short),
        _ => Ok((ty, 0)),
    }
}

impl TableMap {
    fn tell(&mut self, kind: u8, mut value: Bytes<'_>, flavour: Flavour) -> Result<(), Short> {
        // MariaDB counts geometries among the columns that have a character set: that of bytes.
        let is_text = match flavour {
            Flavour::MariaDb => |c: &WireColumn| c.is_text() || c.ty == wire::GEOMETRY,
            Flavour::MySql { .. } => |c: &WireColumn| c.is_text(),
        };
        match kind {
            1 => {
                self.typed = true;
                let signs = value.rest();
                // MariaDB counts years among the numbers.
                let years = matches!(flavour, Flavour::MariaDb);
                let is_number = |c: &WireColumn| c.is_numeric() || (years && c.ty == wire::YEAR);
                let numbers = self.columns.iter_mut().filter(|c| is_number(c));
                for (i, column) in numbers.enumerate() {
                    let byte = signs.get(i / 8).ok_or(Short)?;
                    column.unsigned = byte & 0x80 >> (i % 8) != 0;
                }
            }
            2 => self.default_collation(value, is_text)?,
            3 => self.collations(value, is_text)?,
            4 => {
                self.named = true;
                for column in &mut self.columns {
                    let name = value.packed_bytes()?.to_vec();
                    column.name = String::from_utf8(name).map_err(|_| Short)?;
                }
            }
            5 => self.members(value, wire::SET)?,
            6 => self.members(value, wire::ENUM)?,
            8 | 9 => {
                while !value.is_empty() {
                    self.key.push(usize::try_from(value.packed()?).map_err(|_| Short)?);
                    // A key over the first characters of a column: rows differ in these, so they
                    // differ in the whole.
                    if kind == 9 {
                        value.packed()?;
                    }
                }
            }
            10 => self.default_collation(value, WireColumn::is_choice)?,
            11 => self.collations(value, WireColumn::is_choice)?,
            // Kinds of geometry, visibility, dimensions of vectors, and what is yet to come.
            _ => {}
        }
        Ok(())
    }

    fn default_collation(
        &mut self,
        mut value: Bytes<'_>,
        which: fn(&WireColumn) -> bool,
    ) -> Result<(), Short> {
        let mut columns: Vec<_> = self.columns.iter_mut().filter(|c| which(c)).collect();
        let default = collation(&mut value)?;
        for column in &mut columns {
            column.collation = default;
        }
        while !value.is_empty() {
            let at = usize::try_from(value.packed()?).map_err(|_| Short)?;
            columns.get_mut(at).ok_or(Short)?.collation = collation(&mut value)?;
        }
        Ok(())
    }

    fn collations(
        &mut self,
        mut value: Bytes<'_>,
        which: fn(&WireColumn) -> bool,
    ) -> Result<(), Short> {
        for column in self.columns.iter_mut().filter(|c| which(c)) {
            column.collation = collation(&mut value)?;
        }
        Ok(())
    }

    fn members(&mut self, mut value: Bytes<'_>, ty: u8) -> Result<(), Short> {
        for column in self.columns.iter_mut().filter(|c| c.ty == ty) {
            for _ in 0..value.packed()? {
                column.members.push(value.packed_bytes()?.to_vec());
            }
        }
        Ok(())
    }
}

fn collation(value: &mut Bytes<'_>) -> Result<u32, Short> {
    u32::try_from(value.packed()?).map_err(|_| Short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mariadb_counts_a_year_among_the_numbers() {
        // As a MariaDB 10.11 sent it for `p (y year, a int, b int unsigned, f float)`.
        let body = b"\xf6\0\0\0\0\0\x01\0\x05probe\0\x01p\0\x04\x0d\x03\x03\x04\x01\x04\x0f\
                     \x01\x01\xa0\x04\x08\x01y\x01a\x01b\x01f";
        let map = read(body, Flavour::MariaDb).unwrap();
        let unsigned: Vec<bool> = map.columns.iter().map(|c| c.unsigned).collect();
        assert_eq!(unsigned, [true, false, true, false]);
    }
}
