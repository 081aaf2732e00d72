use medlake_contract::{Column, ColumnType};

use crate::debezium::values::{BinaryHandling, Unit};

/// How the values of a column are written in JSON. What they become is the column's type; the two
/// are chosen together, from a Connect schema ([`crate::debezium::connect`]), from the type a column
/// is declared with in SQL ([`crate::debezium::sql`]), or from the type it has in the lake.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Codec {
    /// `true`, `false`, `0` or `1`.
    Boolean,
    /// A whole number, or a boolean where MySQL's `tinyint(1)` became one.
    Integer,
    /// A number, or `"NaN"`, `"Infinity"`, `"-Infinity"`.
    Float,
    Text,
    /// Whatever there is, kept as JSON text; a string is the text itself.
    Document,
    Bytes(BinaryHandling),
    /// Bits in base64, the lowest byte first.
    Bits,
    /// A decimal: base64 of the unscaled number with this many digits after the point when it is a
    /// string and `unscaled`, else its digits; a number; or a struct of scale and value.
    Decimal {
        scale: i32,
        unscaled: bool,
    },
    /// A 64-bit number whose sign is the highest bit of an unsigned one.
    Unsigned {
        unscaled: bool,
    },
    /// Days, text in ISO 8601 or a struct.
    Date,
    /// A number of units, text in ISO 8601 or a struct.
    Time(Unit),
    /// A number of units, text in ISO 8601 or a struct; of no zone or of UTC, as the column's type
    /// says.
    Timestamp(Unit),
    /// Text, or a struct made into one: a time of day with a zone, a duration.
    StructuredText,
    Uuid,
    /// A struct with WKB in it, of which the bytes are kept.
    Geometry,
    List(Box<Codec>),
    Struct(Vec<(String, Codec)>),
    /// An object, or an array of pairs.
    Map(Box<Codec>, Box<Codec>),
}

impl Codec {
    /// For a column of a type that is known from the lake alone: the way Debezium writes such
    /// values by default.
    pub(crate) fn of_type(ty: &ColumnType) -> Self {
        match ty {
            ColumnType::Boolean => Self::Boolean,
            ColumnType::Int32 | ColumnType::Int64 => Self::Integer,
            ColumnType::Float32 | ColumnType::Float64 => Self::Float,
            ColumnType::Decimal { scale, .. } => {
                Self::Decimal { scale: i32::from(*scale), unscaled: true }
            }
            ColumnType::Date => Self::Date,
            ColumnType::Time => Self::Time(Unit::Micros),
            ColumnType::TimestampMicros | ColumnType::LocalTimestampMicros => {
                Self::Timestamp(Unit::Micros)
            }
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Fixed(_) | ColumnType::Binary => Self::Bytes(BinaryHandling::Bytes),
            ColumnType::List(element) => Self::List(Box::new(Self::of_type(&element.ty))),
            ColumnType::Struct(fields) => Self::Struct(
                fields.iter().map(|f| (f.name.clone(), Self::of_type(&f.ty))).collect(),
            ),
            ColumnType::Map(key, value) => {
                Self::Map(Box::new(Self::of_type(&key.ty)), Box::new(Self::of_type(&value.ty)))
            }
            // Text, and what types there may be one day.
            _ => Self::Document,
        }
    }
}

/// A decimal's column: exact, as a number where 38 digits are enough and as text elsewhere.
pub(crate) fn decimal_type(precision: Option<i32>, scale: i32) -> ColumnType {
    let (precision, scale) = match (precision, scale) {
        // Digits before the point that are always 0.
        (precision, ..0) => (precision.map(|p| p - scale), 0),
        (precision, scale) => (precision.map(|p| p.max(scale)), scale),
    };
    match (u8::try_from(precision.unwrap_or(38)), u8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => {
            ColumnType::Decimal { precision, scale }
        }
        _ => ColumnType::Utf8,
    }
}

/// So many bits.
pub(crate) fn bits_type(length: Option<i32>) -> ColumnType {
    match length {
        Some(1) => ColumnType::Boolean,
        Some(2..=63) => ColumnType::Int64,
        _ => ColumnType::Binary,
    }
}

/// A list of such elements.
pub(crate) fn list_type(element: ColumnType) -> ColumnType {
    ColumnType::List(Box::new(Column::nullable("element", element)))
}

/// Pairs of such keys and values.
pub(crate) fn map_type(key: ColumnType, value: ColumnType) -> ColumnType {
    ColumnType::Map(
        Box::new(Column::required("key", key)),
        Box::new(Column::nullable("value", value)),
    )
}
