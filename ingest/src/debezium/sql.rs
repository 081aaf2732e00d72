//! Columns as they are declared in SQL: what a schema change topic or the configuration says where
//! messages carry no schemas.

use medlake_contract::ColumnType;
use serde::{Deserialize, Serialize};

use crate::debezium::{
    codec::{Codec, bits_type, decimal_type, list_type, map_type},
    problem::Problem,
    values::{BinaryHandling, Unit},
};

/// The connector's `decimal.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecimalHandling {
    /// Base64 of the unscaled number.
    Precise,
    /// Digits in a string.
    String,
    /// A JSON number.
    Double,
}

/// The connector's `time.precision.mode`. Text and structs are known by their look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimePrecision {
    /// As precise as the column.
    Adaptive,
    /// As the column, but times of day in microseconds.
    AdaptiveTimeMicroseconds,
    /// Milliseconds.
    Connect,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
    /// Text in ISO 8601.
    Isostring,
    /// An object with a field for each part.
    Structured,
}

/// How a connector writes values whose schema does not travel with them: the connector's own
/// settings, which have to be repeated here when they are not Debezium's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modes {
    /// `decimal.handling.mode`; `precise` by default.
    pub decimal: DecimalHandling,
    /// `bigint.unsigned.handling.mode` is `precise`; `long` by default.
    pub precise_unsigned: bool,
    /// `time.precision.mode`; `adaptive_time_microseconds` by default for MySQL and MariaDB,
    /// `adaptive` for the others.
    pub time: Option<TimePrecision>,
    /// `binary.handling.mode`; `bytes` by default.
    pub binary: BinaryHandling,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            decimal: DecimalHandling::Precise,
            precise_unsigned: false,
            time: None,
            binary: BinaryHandling::Bytes,
        }
    }
}

/// A type as SQL declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SqlType {
    /// In lower case, without numbers.
    name: String,
    length: Option<i32>,
    scale: Option<i32>,
}

impl SqlType {
    pub(crate) fn new(name: &str, length: Option<i32>, scale: Option<i32>) -> Self {
        Self { name: name.trim().to_ascii_lowercase(), length, scale }
    }

    /// From `decimal(12,2)`, `bigint unsigned` or `timestamp(3) with time zone`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::Type(text.to_owned());
        let Some((before, rest)) = text.split_once('(') else {
            return Ok(Self::new(text, None, None));
        };
        let (numbers, after) = rest.split_once(')').ok_or_else(wrong)?;
        let name = format!("{}{}", before.trim_end(), after.trim_end());
        // An enum's values are no numbers.
        let mut numbers = numbers.split(',').map(|n| n.trim().parse::<i32>().ok());
        Ok(Self::new(&name, numbers.next().flatten(), numbers.next().flatten()))
    }

    /// What the column is and how its values are written by a connector of this kind.
    pub(crate) fn resolve(
        &self,
        mysql: bool,
        modes: &Modes,
    ) -> Result<(ColumnType, Codec), Problem> {
        if let Some(element) = self.name.strip_suffix("[]").or_else(|| self.name.strip_prefix('_'))
        {
            let element = Self { name: element.to_owned(), ..self.clone() };
            let (ty, codec) = element.resolve(mysql, modes)?;
            return Ok((list_type(ty), Codec::List(Box::new(codec))));
        }
        let unsigned = self.name.contains("unsigned") || self.name.contains("zerofill");
        let words: Vec<&str> =
            self.name.split(' ').filter(|w| !matches!(*w, "unsigned" | "zerofill")).collect();
        let fraction = self.length.unwrap_or(if mysql { 0 } else { 6 });
        let zoned = ColumnType::TimestampMicros;
        let local = ColumnType::LocalTimestampMicros;
        Ok(match (words.join(" ").as_str(), mysql) {
            ("bool" | "boolean", _) => (ColumnType::Boolean, Codec::Boolean),
            ("tinyint" | "smallint" | "mediumint" | "year", _)
            | ("int2" | "int4" | "smallserial" | "serial", false) => {
                (ColumnType::Int32, Codec::Integer)
            }
            ("int" | "integer", _) if !unsigned => (ColumnType::Int32, Codec::Integer),
            ("int" | "integer", _) => (ColumnType::Int64, Codec::Integer),
            ("bigint", true) if unsigned => (
                ColumnType::Decimal { precision: 20, scale: 0 },
                Codec::Unsigned { unscaled: modes.precise_unsigned },
            ),
            ("serial", true) => (
                ColumnType::Decimal { precision: 20, scale: 0 },
                Codec::Unsigned { unscaled: modes.precise_unsigned },
            ),
            ("bigint", _) | ("int8" | "bigserial" | "oid", false) => {
                (ColumnType::Int64, Codec::Integer)
            }
            ("float", true) | ("float4" | "real", false) => (ColumnType::Float32, Codec::Float),
            ("double" | "double precision" | "real", true)
            | ("float8" | "double precision" | "float", false) => {
                (ColumnType::Float64, Codec::Float)
            }
            ("decimal" | "numeric" | "fixed" | "dec", _) => self.decimal(mysql, modes),
            ("money", false) => {
                (decimal_type(None, 2), Codec::Decimal { scale: 2, unscaled: modes.precise() })
            }
            ("bit", _) => match self.length.unwrap_or(1) {
                1 => (ColumnType::Boolean, Codec::Boolean),
                length => (bits_type(Some(length)), Codec::Bits),
            },
            ("bit varying" | "varbit", false) => (ColumnType::Binary, Codec::Bits),
            ("date", _) => (ColumnType::Date, Codec::Date),
            ("time" | "time without time zone", _) => {
                let ty = if mysql { ColumnType::Int64 } else { ColumnType::Time };
                (ty, Codec::Time(modes.unit(mysql, fraction, true)))
            }
            ("timestamp", true) | ("timestamptz" | "timestamp with time zone", false) => {
                (zoned, Codec::Timestamp(Unit::Micros))
            }
            ("datetime", _) | ("timestamp" | "timestamp without time zone", false) => {
                (local, Codec::Timestamp(modes.unit(mysql, fraction, false)))
            }
            ("timetz" | "time with time zone", false) => (ColumnType::Utf8, Codec::StructuredText),
            ("interval", false) => (ColumnType::Int64, Codec::Integer),
            ("binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob", true)
            | ("bytea", false) => (ColumnType::Binary, Codec::Bytes(modes.binary)),
            (
                "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
                | "multipolygon" | "geometrycollection" | "geomcollection" | "geography",
                _,
            ) => (ColumnType::Binary, Codec::Geometry),
            ("uuid", _) => (ColumnType::Uuid, Codec::Uuid),
            ("hstore", false) => (
                // As JSON text or as a map, whatever its mode.
                map_type(ColumnType::Utf8, ColumnType::Utf8),
                Codec::Map(Box::new(Codec::Text), Box::new(Codec::Text)),
            ),
            (
                "char" | "character" | "nchar" | "varchar" | "nvarchar" | "character varying"
                | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" | "json"
                | "jsonb" | "xml" | "bpchar" | "citext" | "inet" | "cidr" | "macaddr" | "macaddr8"
                | "ltree" | "tsvector" | "name" | "inet4" | "inet6",
                _,
            ) => (ColumnType::Utf8, Codec::Text),
            (other, false) if other.ends_with("range") => (ColumnType::Utf8, Codec::Text),
            _ => return Err(Problem::Type(self.name.clone())),
        })
    }

    fn decimal(&self, mysql: bool, modes: &Modes) -> (ColumnType, Codec) {
        let unscaled = modes.precise();
        match (self.length, mysql) {
            // PostgreSQL's numeric without precision: each value has a scale of its own.
            (None, false) => (ColumnType::Utf8, Codec::Decimal { scale: 0, unscaled }),
            (length, _) => {
                let scale = self.scale.unwrap_or(0);
                let ty = decimal_type(Some(length.unwrap_or(10)), scale);
                (ty, Codec::Decimal { scale, unscaled })
            }
        }
    }
}

impl Modes {
    fn precise(&self) -> bool {
        self.decimal == DecimalHandling::Precise
    }

    fn unit(&self, mysql: bool, fraction: i32, time: bool) -> Unit {
        let adaptive = match fraction {
            ..=3 => Unit::Millis,
            4..=6 => Unit::Micros,
            _ => Unit::Nanos,
        };
        let default =
            if mysql { TimePrecision::AdaptiveTimeMicroseconds } else { TimePrecision::Adaptive };
        match self.time.unwrap_or(default) {
            TimePrecision::AdaptiveTimeMicroseconds if time => Unit::Micros,
            TimePrecision::Adaptive | TimePrecision::AdaptiveTimeMicroseconds => adaptive,
            TimePrecision::Connect => Unit::Millis,
            TimePrecision::Nanoseconds => Unit::Nanos,
            TimePrecision::Microseconds | TimePrecision::Isostring | TimePrecision::Structured => {
                Unit::Micros
            }
        }
    }
}
