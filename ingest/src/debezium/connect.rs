//! What Kafka Connect says of a message: the schema beside the payload.

use std::collections::BTreeMap;

use medlake_contract::{Column, ColumnType};
use serde::Deserialize;

use crate::debezium::{
    codec::{Codec, bits_type, decimal_type, list_type, map_type},
    problem::Problem,
    values::{BinaryHandling, Unit},
};

/// A schema as `JsonConverter` writes it.
#[derive(Debug, Deserialize)]
pub(crate) struct ConnectSchema {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    optional: bool,
    name: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    pub(crate) field: Option<String>,
    #[serde(default)]
    pub(crate) fields: Vec<ConnectSchema>,
    items: Option<Box<ConnectSchema>>,
    keys: Option<Box<ConnectSchema>>,
    values: Option<Box<ConnectSchema>>,
}

/// A column and how its values are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: ColumnType,
    pub(crate) nullable: bool,
    pub(crate) codec: Codec,
}

impl ConnectSchema {
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, Problem> {
        serde_json::from_str(text).map_err(|e| Problem::Schema(e.to_string()))
    }

    /// The row's fields, of the schema of an envelope.
    pub(crate) fn row(&self) -> Option<&Self> {
        let named = |name| self.fields.iter().find(|f| f.field.as_deref() == Some(name));
        named("after").or_else(|| named("before"))
    }

    /// The fields of a struct as columns. `mysql` is whether the values come from MySQL or MariaDB,
    /// whose times are durations.
    pub(crate) fn columns(&self, mysql: bool) -> Result<Vec<Field>, Problem> {
        let field = |f: &Self| {
            let Some(name) = f.field.clone() else {
                return Err(Problem::Schema("a field has no name".to_owned()));
            };
            let (ty, codec) = f.column_type(mysql)?;
            Ok(Field { name, ty, nullable: f.optional, codec })
        };
        self.fields.iter().map(field).collect()
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.parameters.get(name)?.parse().ok()
    }

    fn column_type(&self, mysql: bool) -> Result<(ColumnType, Codec), Problem> {
        let name = self.name.as_deref().unwrap_or_default();
        let time = if mysql { ColumnType::Int64 } else { ColumnType::Time };
        let local = ColumnType::LocalTimestampMicros;
        let known = match name {
            "org.apache.kafka.connect.data.Decimal" => {
                let scale = self.number("scale").unwrap_or(0);
                let ty = decimal_type(self.number("connect.decimal.precision"), scale);
                (ty, Codec::Decimal { scale, unscaled: true })
            }
            "io.debezium.data.VariableScaleDecimal" => {
                (ColumnType::Utf8, Codec::Decimal { scale: 0, unscaled: true })
            }
            "io.debezium.time.Date"
            | "org.apache.kafka.connect.data.Date"
            | "io.debezium.time.IsoDate"
            | "io.debezium.time.StructuredDate" => (ColumnType::Date, Codec::Date),
            "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => {
                (time, Codec::Time(Unit::Millis))
            }
            "io.debezium.time.MicroTime"
            | "io.debezium.time.IsoTime"
            | "io.debezium.time.StructuredTime" => (time, Codec::Time(Unit::Micros)),
            "io.debezium.time.NanoTime" => (time, Codec::Time(Unit::Nanos)),
            "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => {
                (local, Codec::Timestamp(Unit::Millis))
            }
            "io.debezium.time.MicroTimestamp"
            | "io.debezium.time.IsoTimestamp"
            | "io.debezium.time.StructuredTimestamp" => (local, Codec::Timestamp(Unit::Micros)),
            "io.debezium.time.NanoTimestamp" => (local, Codec::Timestamp(Unit::Nanos)),
            "io.debezium.time.ZonedTimestamp" | "io.debezium.time.StructuredZonedTimestamp" => {
                (ColumnType::TimestampMicros, Codec::Timestamp(Unit::Micros))
            }
            "io.debezium.time.StructuredZonedTime" | "io.debezium.time.StructuredDuration" => {
                (ColumnType::Utf8, Codec::StructuredText)
            }
            "io.debezium.data.Bits" => (bits_type(self.number("length")), Codec::Bits),
            "io.debezium.data.Uuid" => (ColumnType::Uuid, Codec::Uuid),
            "io.debezium.data.geometry.Geometry"
            | "io.debezium.data.geometry.Geography"
            | "io.debezium.data.geometry.Point" => (ColumnType::Binary, Codec::Geometry),
            _ => return self.plain(mysql),
        };
        Ok(known)
    }

    /// What has no meaning of its own: an intervals in microseconds, an enum's text.
    fn plain(&self, mysql: bool) -> Result<(ColumnType, Codec), Problem> {
        let part = |part: &Option<Box<Self>>| match part {
            Some(part) => part.column_type(mysql),
            None => Err(Problem::Schema(format!("a schema of type {} is not whole", self.kind))),
        };
        Ok(match self.kind.as_str() {
            "boolean" => (ColumnType::Boolean, Codec::Boolean),
            "int8" | "int16" | "int32" => (ColumnType::Int32, Codec::Integer),
            "int64" => (ColumnType::Int64, Codec::Integer),
            "float" | "float32" => (ColumnType::Float32, Codec::Float),
            "double" | "float64" => (ColumnType::Float64, Codec::Float),
            "string" => (ColumnType::Utf8, Codec::Text),
            "bytes" => (ColumnType::Binary, Codec::Bytes(BinaryHandling::Bytes)),
            "array" => {
                let (element, codec) = part(&self.items)?;
                (list_type(element), Codec::List(Box::new(codec)))
            }
            "map" => {
                let ((key, key_codec), (value, value_codec)) =
                    (part(&self.keys)?, part(&self.values)?);
                (map_type(key, value), Codec::Map(Box::new(key_codec), Box::new(value_codec)))
            }
            "struct" if !self.fields.is_empty() => {
                let fields = self.columns(mysql)?;
                // What is inside a value may always be missing.
                let columns =
                    fields.iter().map(|f| Column::nullable(&f.name, f.ty.clone())).collect();
                let codecs = fields.into_iter().map(|f| (f.name, f.codec)).collect();
                (ColumnType::Struct(columns), Codec::Struct(codecs))
            }
            other => return Err(Problem::Schema(format!("type {other} is not known"))),
        })
    }
}
