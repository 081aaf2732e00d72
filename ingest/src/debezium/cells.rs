use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
        FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
        ListArray, MapArray, NullBufferBuilder, StringBuilder, StructArray,
        Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
    },
    buffer::{OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, FieldRef, Fields},
    error::ArrowError,
};
use medlake_contract::{Column, ColumnType};
use uuid::Uuid;

use crate::{
    calendar,
    debezium::{
        codec::Codec,
        json::Json,
        problem::Problem,
        values::{self, Decimal, Unit},
    },
};

/// The values of one column on their way from JSON into Arrow.
#[derive(Debug)]
pub(crate) enum Cells {
    Boolean(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal {
        values: Decimal128Builder,
        precision: u8,
        scale: u8,
    },
    Utf8(StringBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Fixed {
        values: FixedSizeBinaryBuilder,
        length: usize,
    },
    Binary(BinaryBuilder),
    Struct {
        fields: Fields,
        children: Vec<Cells>,
        valid: NullBufferBuilder,
    },
    /// A list, or a map, whose elements are structs.
    List {
        ty: DataType,
        field: FieldRef,
        offsets: Vec<i32>,
        child: Box<Cells>,
        valid: NullBufferBuilder,
    },
}

impl Cells {
    pub(crate) fn new(ty: &ColumnType) -> Self {
        let arrow = ty.arrow();
        match ty {
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::Int32 => Self::Int32(Int32Builder::new()),
            ColumnType::Int64 => Self::Int64(Int64Builder::new()),
            ColumnType::Float32 => Self::Float32(Float32Builder::new()),
            ColumnType::Float64 => Self::Float64(Float64Builder::new()),
            ColumnType::Decimal { precision, scale } => Self::Decimal {
                values: Decimal128Builder::new().with_data_type(arrow),
                precision: *precision,
                scale: *scale,
            },
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Time => Self::Time(Time64MicrosecondBuilder::new()),
            ColumnType::TimestampMicros | ColumnType::LocalTimestampMicros => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(arrow))
            }
            ColumnType::Uuid => Self::fixed(16),
            ColumnType::Fixed(length) => Self::fixed(*length),
            ColumnType::Binary => Self::Binary(BinaryBuilder::new()),
            ColumnType::List(element) => Self::list(arrow, Self::new(&element.ty)),
            ColumnType::Struct(columns) => Self::structure(columns.iter()),
            ColumnType::Map(key, value) => {
                Self::list(arrow, Self::structure([key.as_ref(), value.as_ref()].into_iter()))
            }
            // Text, and what types there may be one day: such a column reads as text.
            _ => Self::Utf8(StringBuilder::new()),
        }
    }

    fn fixed(length: u32) -> Self {
        let values = FixedSizeBinaryBuilder::new(i32::try_from(length).unwrap_or(i32::MAX));
        Self::Fixed { values, length: length as usize }
    }

    fn structure<'a>(columns: impl Iterator<Item = &'a Column>) -> Self {
        let (fields, children): (Vec<_>, _) =
            columns.map(|c| (Arc::new(c.arrow()), Self::new(&c.ty))).unzip();
        Self::Struct { fields: fields.into(), children, valid: NullBufferBuilder::new(0) }
    }

    fn list(ty: DataType, child: Self) -> Self {
        let field = match &ty {
            DataType::List(field) | DataType::Map(field, _) => Arc::clone(field),
            other => Arc::new(arrow::datatypes::Field::new("element", other.clone(), true)),
        };
        let valid = NullBufferBuilder::new(0);
        Self::List { ty, field, offsets: vec![0], child: Box::new(child), valid }
    }

    pub(crate) fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            Self::Boolean(b) => b.len(),
            Self::Int32(b) => b.len(),
            Self::Int64(b) => b.len(),
            Self::Float32(b) => b.len(),
            Self::Float64(b) => b.len(),
            Self::Decimal { values, .. } => values.len(),
            Self::Utf8(b) => b.len(),
            Self::Date(b) => b.len(),
            Self::Time(b) => b.len(),
            Self::Timestamp(b) => b.len(),
            Self::Fixed { values, .. } => values.len(),
            Self::Binary(b) => b.len(),
            Self::Struct { valid, .. } => valid.len(),
            Self::List { valid, .. } => valid.len(),
        }
    }

    /// Appends nulls until there are `rows`: also after a value that could not be read whole, of
    /// which nothing counts.
    pub(crate) fn pad(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        match self {
            Self::Boolean(b) => b.append_nulls(missing),
            Self::Int32(b) => b.append_nulls(missing),
            Self::Int64(b) => b.append_nulls(missing),
            Self::Float32(b) => b.append_nulls(missing),
            Self::Float64(b) => b.append_nulls(missing),
            Self::Decimal { values, .. } => values.append_nulls(missing),
            Self::Utf8(b) => b.append_nulls(missing),
            Self::Date(b) => b.append_nulls(missing),
            Self::Time(b) => b.append_nulls(missing),
            Self::Timestamp(b) => b.append_nulls(missing),
            Self::Fixed { values, .. } => values.append_nulls(missing),
            Self::Binary(b) => b.append_nulls(missing),
            Self::Struct { children, valid, .. } => {
                children.iter_mut().for_each(|c| c.pad(rows));
                valid.append_n_nulls(missing);
            }
            Self::List { ty, offsets, child, valid, .. } => {
                child.settle(matches!(ty, DataType::Map(..)));
                let end = i32::try_from(child.len()).unwrap_or(i32::MAX);
                for _ in 0..missing {
                    offsets.push(end);
                }
                valid.append_n_nulls(missing);
            }
        }
    }

    /// Brings what is inside a struct into step, after an element that could not be read whole.
    fn settle(&mut self, present: bool) {
        let Self::Struct { children, valid, .. } = self else { return };
        let rows = children.iter().map(Self::len).max().unwrap_or(0).max(valid.len());
        children.iter_mut().for_each(|child| child.pad(rows));
        let missing = rows - valid.len();
        if present {
            // A map has no entries that are null; these are ones no map has.
            valid.append_n_non_nulls(missing);
        } else {
            valid.append_n_nulls(missing);
        }
    }

    /// Appends the value that is next in `json`. After an error, [`Self::pad`] brings the column
    /// back into step; the value that is there then means nothing.
    pub(crate) fn push(
        &mut self,
        codec: &Codec,
        json: &mut Json<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        if json.null()? {
            let rows = self.len() + 1;
            self.pad(rows);
            return Ok(());
        }
        match (self, codec) {
            (Self::Boolean(b), Codec::Boolean) => b.append_value(boolean(json)?),
            (Self::Boolean(b), Codec::Bits) => b.append_value(bits(json, scratch)? != 0),
            (Self::Int32(b), Codec::Integer) => {
                let value = i32::try_from(integer(json)?);
                b.append_value(value.map_err(|_| Problem::cell("a 32-bit integer"))?);
            }
            (Self::Int64(b), Codec::Integer) => b.append_value(integer(json)?),
            (Self::Int64(b), Codec::Bits) => {
                let value = i64::try_from(bits(json, scratch)?);
                b.append_value(value.map_err(|_| Problem::cell("at most 63 bits"))?);
            }
            (Self::Int64(b), Codec::Time(unit)) => b.append_value(time(json, *unit)?),
            (Self::Time(b), Codec::Time(unit)) => {
                let value = time(json, *unit)?;
                if !(0..86_400_000_000).contains(&value) {
                    return Err(Problem::cell("a time of day"));
                }
                b.append_value(value);
            }
            (Self::Float32(b), Codec::Float) => b.append_value(float(json)?),
            (Self::Float64(b), Codec::Float) => b.append_value(float(json)?),
            (Self::Decimal { values, precision, scale }, codec) => {
                let value = decimal(json, codec, scratch)?;
                let value = value.to_i128(*precision, *scale).ok_or_else(|| {
                    Problem::cell(format!(
                        "a decimal of at most {precision} digits, {scale} of them after the point"
                    ))
                })?;
                values.append_value(value);
            }
            (Self::Utf8(b), Codec::Text) => b.append_value(json.string()?),
            (Self::Utf8(b), Codec::Decimal { .. } | Codec::Unsigned { .. }) => {
                if json.peek()? == b'"'
                    && let special @ ("NaN" | "Infinity" | "-Infinity" | "NAN" | "POSITIVE_INFINITY"
                    | "NEGATIVE_INFINITY") = &*json.clone().string()?
                {
                    b.append_value(special_number(special));
                    json.string()?;
                } else {
                    b.append_value(decimal(json, codec, scratch)?.to_text());
                }
            }
            (Self::Utf8(b), Codec::StructuredText) => match json.peek()? {
                b'"' => b.append_value(json.string()?),
                _ => b.append_value(structured_text(json)?),
            },
            (Self::Utf8(b), _) => match json.peek()? {
                b'"' => b.append_value(json.string()?),
                _ => b.append_value(document(json)?),
            },
            (Self::Date(b), Codec::Date) => {
                let day = i32::try_from(date(json)?);
                b.append_value(day.map_err(|_| Problem::cell("a date"))?);
            }
            (Self::Timestamp(b), Codec::Timestamp(unit)) => {
                b.append_value(timestamp(json, *unit)?);
            }
            (Self::Fixed { values, length: 16 }, Codec::Uuid) => {
                let text = json.string()?;
                let wrong = || Problem::cell("a UUID");
                let uuid = Uuid::try_parse(&text).map_err(|_| wrong())?;
                values.append_value(uuid.as_bytes()).map_err(|_| wrong())?;
            }
            (Self::Fixed { values, length }, Codec::Bytes(alphabet)) => {
                values::bytes(&json.string()?, *alphabet, scratch)?;
                let wrong = || Problem::cell(format!("{length} bytes"));
                values.append_value(&scratch).map_err(|_| wrong())?;
            }
            (Self::Binary(b), Codec::Bytes(alphabet)) => {
                values::bytes(&json.string()?, *alphabet, scratch)?;
                b.append_value(&scratch);
            }
            (Self::Binary(b), Codec::Bits) => {
                values::bytes(&json.string()?, values::BinaryHandling::Bytes, scratch)?;
                // In the order bits are written in: the highest first.
                scratch.reverse();
                b.append_value(&scratch);
            }
            (Self::Binary(b), Codec::Geometry) => {
                geometry(json, scratch)?;
                b.append_value(&scratch);
            }
            (Self::List { offsets, child, valid, .. }, Codec::List(element)) => {
                json.array()?;
                let mut first = true;
                while json.more(first, b']')? {
                    first = false;
                    child.push(element, json, scratch)?;
                }
                end_list(offsets, child, valid)?;
            }
            (Self::List { offsets, child, valid, .. }, Codec::Map(key, value)) => {
                push_map(child, key, value, json, scratch)?;
                end_list(offsets, child, valid)?;
            }
            (Self::Struct { fields, children, valid }, Codec::Struct(codecs)) => {
                let row = valid.len() + 1;
                json.object()?;
                let mut first = true;
                while let Some(name) = json.key(first)? {
                    first = false;
                    let Some(at) = fields.iter().position(|f| *f.name() == name) else {
                        json.raw()?;
                        continue;
                    };
                    let (Some(child), Some((_, codec))) = (children.get_mut(at), codecs.get(at))
                    else {
                        return Err(Problem::cell("of the fields its schema has"));
                    };
                    if child.len() >= row {
                        return Err(Problem::cell("an object without repeated fields"));
                    }
                    child.push(codec, json, scratch)?;
                }
                children.iter_mut().for_each(|child| child.pad(row));
                valid.append_non_null();
            }
            _ => return Err(Problem::cell("one its column's type can hold")),
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Decimal { values, .. } => Arc::new(values.finish()),
            Self::Utf8(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Fixed { values, .. } => Arc::new(values.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
            Self::Struct { fields, children, valid } => {
                let rows = valid.len();
                let children = children.iter_mut().map(Self::finish).collect::<Result<_, _>>()?;
                let nulls = valid.finish();
                Arc::new(StructArray::try_new_with_length(fields.clone(), children, nulls, rows)?)
            }
            Self::List { ty, field, offsets, child, valid } => {
                let values = child.finish()?;
                let written = std::mem::replace(offsets, vec![0]);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(written));
                let nulls = valid.finish();
                match (ty, values.as_any().downcast_ref::<StructArray>()) {
                    (DataType::Map(..), Some(entries)) => Arc::new(MapArray::try_new(
                        Arc::clone(field),
                        offsets,
                        entries.clone(),
                        nulls,
                        false,
                    )?),
                    _ => Arc::new(ListArray::try_new(Arc::clone(field), offsets, values, nulls)?),
                }
            }
        })
    }
}

fn end_list(
    offsets: &mut Vec<i32>,
    child: &Cells,
    valid: &mut NullBufferBuilder,
) -> Result<(), Problem> {
    let end = i32::try_from(child.len()).map_err(|_| Problem::cell("a list that fits"))?;
    offsets.push(end);
    valid.append_non_null();
    Ok(())
}

/// A map is an object, an array of pairs where its keys are no text, or for `hstore` the text of an
/// object.
fn push_map(
    entries: &mut Cells,
    key: &Codec,
    value: &Codec,
    json: &mut Json<'_>,
    scratch: &mut Vec<u8>,
) -> Result<(), Problem> {
    let Cells::Struct { children, valid, .. } = entries else {
        return Err(Problem::cell("a map"));
    };
    let [keys, values] = children.as_mut_slice() else { return Err(Problem::cell("a map")) };
    match json.peek()? {
        b'"' => {
            let text = json.string()?;
            let mut inner = Json::new(&text);
            inner.object()?;
            push_pairs(keys, values, valid, value, &mut inner, scratch)
        }
        b'[' => {
            json.array()?;
            let mut first = true;
            while json.more(first, b']')? {
                first = false;
                json.array()?;
                if !json.more(true, b']')? || json.peek()? == b'n' {
                    return Err(Problem::cell("an array of pairs"));
                }
                keys.push(key, json, scratch)?;
                if !json.more(false, b']')? {
                    return Err(Problem::cell("an array of pairs"));
                }
                values.push(value, json, scratch)?;
                if json.more(false, b']')? {
                    return Err(Problem::cell("an array of pairs"));
                }
                valid.append_non_null();
            }
            Ok(())
        }
        _ => {
            json.object()?;
            push_pairs(keys, values, valid, value, json, scratch)
        }
    }
}

fn push_pairs(
    keys: &mut Cells,
    values: &mut Cells,
    valid: &mut NullBufferBuilder,
    value: &Codec,
    json: &mut Json<'_>,
    scratch: &mut Vec<u8>,
) -> Result<(), Problem> {
    let mut first = true;
    while let Some(name) = json.key(first)? {
        first = false;
        let Cells::Utf8(keys) = &mut *keys else {
            return Err(Problem::cell("an array of pairs"));
        };
        keys.append_value(name);
        values.push(value, json, scratch)?;
        valid.append_non_null();
    }
    Ok(())
}

fn boolean(json: &mut Json<'_>) -> Result<bool, Problem> {
    match json.peek()? {
        b't' | b'f' => json.boolean(),
        _ => match json.number()? {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(Problem::cell("true or false")),
        },
    }
}

fn integer(json: &mut Json<'_>) -> Result<i64, Problem> {
    match json.peek()? {
        b't' | b'f' => json.boolean().map(i64::from),
        b'"' => Err(Problem::cell("an integer")),
        _ => json.number()?.parse().map_err(|_| Problem::cell("a 64-bit integer")),
    }
}

fn float<T: std::str::FromStr>(json: &mut Json<'_>) -> Result<T, Problem> {
    let wrong = |_| Problem::cell("a number");
    match json.peek()? {
        b'"' => special_number(&json.string()?).parse().map_err(wrong),
        _ => json.number()?.parse().map_err(wrong),
    }
}

fn special_number(text: &str) -> &str {
    match text {
        "NAN" => "NaN",
        "POSITIVE_INFINITY" => "Infinity",
        "NEGATIVE_INFINITY" => "-Infinity",
        other => other,
    }
}

fn bits(json: &mut Json<'_>, scratch: &mut Vec<u8>) -> Result<u64, Problem> {
    match json.peek()? {
        b't' | b'f' => return json.boolean().map(u64::from),
        b'"' => {}
        _ => return json.number()?.parse().map_err(|_| Problem::cell("bits")),
    }
    values::bytes(&json.string()?, values::BinaryHandling::Bytes, scratch)?;
    let mut value = 0_u64;
    for (at, byte) in scratch.iter().enumerate() {
        match at {
            0..8 => value |= u64::from(*byte) << (8 * at),
            _ if *byte == 0 => {}
            _ => return Err(Problem::cell("at most 64 bits")),
        }
    }
    Ok(value)
}

fn decimal(json: &mut Json<'_>, codec: &Codec, scratch: &mut Vec<u8>) -> Result<Decimal, Problem> {
    let wrong = || Problem::cell("a decimal");
    let (mut scale, unscaled) = match codec {
        Codec::Decimal { scale, unscaled } => (*scale, *unscaled),
        Codec::Unsigned { unscaled } => (0, *unscaled),
        _ => return Err(wrong()),
    };
    match json.peek()? {
        b'"' if unscaled => {
            values::bytes(&json.string()?, values::BinaryHandling::Bytes, scratch)?;
            Decimal::from_unscaled(scratch, scale).ok_or_else(wrong)
        }
        b'"' => Decimal::from_text(&json.string()?).ok_or_else(wrong),
        b'{' => {
            json.object()?;
            let mut value = None;
            let mut first = true;
            while let Some(name) = json.key(first)? {
                first = false;
                match &*name {
                    "scale" => scale = json.number()?.parse().map_err(|_| wrong())?,
                    "value" => value = Some(json.string()?),
                    _ => drop(json.raw()?),
                }
            }
            values::bytes(&value.ok_or_else(wrong)?, values::BinaryHandling::Bytes, scratch)?;
            Decimal::from_unscaled(scratch, scale).ok_or_else(wrong)
        }
        _ => {
            let text = json.number()?;
            if let (Codec::Unsigned { .. }, Ok(negative @ ..0)) = (codec, text.parse::<i64>()) {
                return Decimal::from_text(&negative.cast_unsigned().to_string()).ok_or_else(wrong);
            }
            Decimal::from_text(text).ok_or_else(wrong)
        }
    }
}

/// The parts of a structured date or time.
#[derive(Debug, Default)]
struct Parts {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    nanos: i64,
    offset: i64,
    infinite: Option<i64>,
}

impl Parts {
    fn read(json: &mut Json<'_>) -> Result<Self, Problem> {
        let mut parts = Self::default();
        json.object()?;
        let mut first = true;
        while let Some(name) = json.key(first)? {
            first = false;
            if json.null()? {
                continue;
            }
            match &*name {
                "year" => parts.year = Some(integer(json)?),
                "month" => parts.month = Some(integer(json)?),
                "day" => parts.day = Some(integer(json)?),
                "hour" => parts.hour = integer(json)?,
                "minute" => parts.minute = integer(json)?,
                "second" => parts.second = integer(json)?,
                "nanos" => parts.nanos = integer(json)?,
                "offsetSeconds" => parts.offset = integer(json)?,
                "specialValue" => {
                    parts.infinite = Some(match &*json.string()? {
                        "POSITIVE_INFINITY" => values::INFINITY,
                        "NEGATIVE_INFINITY" => values::NEGATIVE_INFINITY,
                        _ => return Err(Problem::cell("a date or an infinity")),
                    });
                }
                _ => drop(json.raw()?),
            }
        }
        Ok(parts)
    }

    fn days(&self) -> Option<i64> {
        calendar::days(self.year?, self.month?, self.day?)
    }

    fn time(&self) -> Option<i64> {
        values::time_of_day(self.hour, self.minute, self.second, self.nanos)
    }
}

fn date(json: &mut Json<'_>) -> Result<i64, Problem> {
    let wrong = || Problem::cell("a date");
    match json.peek()? {
        b'"' => values::iso_date(&json.string()?).ok_or_else(wrong),
        b'{' => Parts::read(json)?.days().ok_or_else(wrong),
        _ => integer(json),
    }
}

fn time(json: &mut Json<'_>, unit: Unit) -> Result<i64, Problem> {
    let wrong = || Problem::cell("a time of day");
    match json.peek()? {
        b'"' => values::iso_time(&json.string()?).map(|(time, _)| time).ok_or_else(wrong),
        b'{' => Parts::read(json)?.time().ok_or_else(wrong),
        _ => unit.micros(integer(json)?),
    }
}

fn timestamp(json: &mut Json<'_>, unit: Unit) -> Result<i64, Problem> {
    let wrong = || Problem::cell("a date and time");
    match json.peek()? {
        b'"' => values::iso_timestamp(&json.string()?).ok_or_else(wrong),
        b'{' => {
            let parts = Parts::read(json)?;
            let found = || {
                let local = values::timestamp(parts.days()?, parts.time()?)?;
                local.checked_sub(parts.offset.checked_mul(1_000_000)?)
            };
            parts.infinite.or_else(found).ok_or_else(wrong)
        }
        _ => unit.micros(integer(json)?),
    }
}

/// A zoned time or a duration in ISO 8601.
fn structured_text(json: &mut Json<'_>) -> Result<String, Problem> {
    let text = json.raw()?;
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|_| Problem::cell("a time or a duration"))?;
    let part = |name: &str| value.get(name).and_then(serde_json::Value::as_i64).unwrap_or(0);
    let nanos = part("nanos");
    let fraction = |text: String| match nanos {
        0 => text,
        _ => format!("{text}.{:09}", nanos.unsigned_abs()).trim_end_matches('0').to_owned(),
    };
    if value.get("hour").is_none() {
        let seconds = part("seconds");
        let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
        let seconds = fraction(format!("{sign}{}", seconds.unsigned_abs()));
        let [years, months, days, hours, minutes] =
            ["years", "months", "days", "hours", "minutes"].map(part);
        return Ok(format!("P{years}Y{months}M{days}DT{hours}H{minutes}M{seconds}S"));
    }
    let [hour, minute, second, offset] = ["hour", "minute", "second", "offsetSeconds"].map(part);
    let clock = fraction(format!("{hour:02}:{minute:02}:{second:02}"));
    let zone = match offset {
        0 => "Z".to_owned(),
        _ => {
            let sign = if offset < 0 { '-' } else { '+' };
            let minutes = offset.unsigned_abs() / 60;
            format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
    };
    Ok(format!("{clock}{zone}"))
}

/// Any value as JSON text, once it is sure that it is JSON.
fn document<'a>(json: &mut Json<'a>) -> Result<&'a str, Problem> {
    let text = json.raw()?;
    let checked: Result<serde::de::IgnoredAny, _> = serde_json::from_str(text);
    checked.map(|_| text).map_err(|_| Problem::cell("JSON"))
}

/// The WKB of a geometry, as bytes in base64 in a struct, or alone.
fn geometry(json: &mut Json<'_>, into: &mut Vec<u8>) -> Result<(), Problem> {
    let alphabet = values::BinaryHandling::Bytes;
    if json.peek()? == b'"' {
        return values::bytes(&json.string()?, alphabet, into);
    }
    let mut found = false;
    json.object()?;
    let mut first = true;
    while let Some(name) = json.key(first)? {
        first = false;
        if name == "wkb" && json.peek()? == b'"' {
            values::bytes(&json.string()?, alphabet, into)?;
            found = true;
        } else {
            json.raw()?;
        }
    }
    if found { Ok(()) } else { Err(Problem::cell("a geometry")) }
}
