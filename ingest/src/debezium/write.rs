//! Changes as messages of a Debezium connector, with their schemas: the counterpart of what is read
//! beside this file, so that what is written here comes back as the same columns.

use std::fmt::Write as _;

use medlake_contract::ColumnType;
use serde_json::Value;

use crate::{
    calendar,
    debezium::{
        envelope::ChangeOp,
        problem::Problem,
        values::{iso_date, to_base64},
    },
    hex,
};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the messages say wrote them.
const CONNECTOR: &str = "medlake";
/// Beside the delete that a new key makes of a row, and beside the row it then is.
const NEW_KEY: &str = "__debezium.newkey";
const OLD_KEY: &str = "__debezium.oldkey";

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) key: String,
    /// None is a tombstone: compaction forgets the key.
    pub(crate) value: Option<String>,
    pub(crate) header: Option<(&'static str, String)>,
}

/// Where a table's changes are from, and where they go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'a> {
    /// The first word of all topics.
    pub(crate) prefix: &'a str,
    /// The service.
    pub(crate) db: &'a str,
    pub(crate) table: &'a str,
}

impl Route<'_> {
    pub(crate) fn topic(&self) -> String {
        format!("{}.{}.{}", self.prefix, self.db, self.table)
    }
}

/// A change's transaction, and its place in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) tx_id: i64,
    /// From 1, over all tables.
    pub(crate) total_order: u64,
    /// From 1, in its table.
    pub(crate) order: u64,
}

/// What happened to one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowChange<'a> {
    pub(crate) op: ChangeOp,
    /// The row's values in the form of the change table; one that is shorter than the table lacks
    /// columns that were added later.
    pub(crate) before: Option<&'a [Value]>,
    pub(crate) after: Option<&'a [Value]>,
    /// Its number in the change table.
    pub(crate) change_id: i64,
    /// When it was committed, in microseconds since 1970.
    pub(crate) committed_at: i64,
    /// None for a row that was there before changes were read.
    pub(crate) place: Option<Place>,
    /// When the message is written, in milliseconds since 1970.
    pub(crate) now_millis: i64,
}

/// One column as messages have it.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// Its name.
    name: String,
    /// The same as JSON.
    quoted: String,
    ty: ColumnType,
    nullable: bool,
}

impl Cell {
    pub(crate) fn new(name: &str, ty: &ColumnType, nullable: bool) -> Self {
        Self { name: name.to_owned(), quoted: text(name), ty: ty.clone(), nullable }
    }

    /// Its schema, whose logical type is the one that comes back as its own.
    fn schema(&self) -> Result<String, Problem> {
        let (kind, name) = match self.ty {
            ColumnType::Boolean => ("boolean", None),
            ColumnType::Int32 => ("int32", None),
            ColumnType::Int64 => ("int64", None),
            ColumnType::Float64 => ("double", None),
            ColumnType::Utf8 => ("string", None),
            ColumnType::Binary => ("bytes", None),
            ColumnType::Date => ("int32", Some("io.debezium.time.Date")),
            ColumnType::TimestampMicros => ("string", Some("io.debezium.time.ZonedTimestamp")),
            ref other => return Err(Problem::Type(format!("{other:?}"))),
        };
        let name = name.map_or_else(String::new, |n| format!(r#","name":"{n}","version":1"#));
        let (optional, field) = (self.nullable, &self.quoted);
        Ok(format!(r#"{{"type":"{kind}","optional":{optional}{name},"field":{field}}}"#))
    }

    /// Writes a value that stands in the change table like this.
    fn write(&self, value: &Value, into: &mut String) -> Result<(), Problem> {
        let wrong = |expected: &str| Err(Problem::cell(expected).of(&self.name));
        match (&self.ty, value) {
            (_, Value::Null) => into.push_str("null"),
            (ColumnType::Boolean, Value::Number(n)) => match n.as_i64() {
                Some(bit @ (0 | 1)) => into.push_str(if bit == 1 { "true" } else { "false" }),
                _ => return wrong("0 or 1"),
            },
            (ColumnType::Int64 | ColumnType::Int32, Value::Number(n)) if n.is_i64() => {
                let _ = write!(into, "{n}");
            }
            (ColumnType::Float64, Value::String(number)) => match number.parse::<f64>() {
                Ok(number) if number.is_finite() => {
                    into.push_str(&Value::from(number).to_string());
                }
                Ok(f64::INFINITY) => into.push_str("\"Infinity\""),
                Ok(f64::NEG_INFINITY) => into.push_str("\"-Infinity\""),
                _ => return wrong("a number"),
            },
            (ColumnType::Utf8, Value::String(text)) => into.push_str(&self::text(text)),
            (ColumnType::Date, Value::String(date)) => match iso_date(date) {
                Some(days) if date.len() == 10 => {
                    let _ = write!(into, "{days}");
                }
                _ => return wrong("a date as yyyy-mm-dd"),
            },
            (ColumnType::TimestampMicros, Value::Number(n)) => match n.as_i64() {
                Some(micros) => timestamp(micros, into),
                None => return wrong("microseconds since 1970"),
            },
            (ColumnType::Binary, Value::String(digits)) => {
                let mut bytes = Vec::new();
                match hex::decode(digits.as_bytes(), &mut bytes) {
                    Some(()) => {
                        let _ = write!(into, "\"{}\"", to_base64(&bytes, false));
                    }
                    None => return wrong("bytes in hexadecimal digits"),
                }
            }
            _ => return wrong("of its column's type"),
        }
        Ok(())
    }
}

/// `"2018-06-20T13:37:03.5Z"`.
fn timestamp(micros: i64, into: &mut String) {
    let (days, time) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
    let [year, month, day] = calendar::date(days);
    let sign = match year {
        ..0 => "-",
        0..=9999 => "",
        _ => "+",
    };
    let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let year = year.abs();
    let _ = write!(
        into,
        "\"{sign}{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z\""
    );
}

/// Text as JSON.
fn text(text: &str) -> String {
    Value::from(text).to_string()
}

/// Writes the changes of one table, as long as its columns are these.
#[derive(Debug)]
pub(crate) struct TableWriter {
    cells: Vec<Cell>,
    key: Vec<usize>,
    key_schema: String,
    envelope_schema: String,
    /// The part of `source` that is the same in all.
    source: String,
    db: String,
}

impl TableWriter {
    /// # Errors
    /// When a column is of a type that messages have no form for here.
    pub(crate) fn new(
        route: Route<'_>,
        cells: Vec<Cell>,
        key: Vec<usize>,
    ) -> Result<Self, Problem> {
        let topic = route.topic();
        let schemas = cells.iter().map(Cell::schema).collect::<Result<Vec<_>, _>>()?;
        let of_key: Vec<&str> =
            key.iter().filter_map(|&i| Some(schemas.get(i)?.as_str())).collect();
        let key_name = text(&format!("{topic}.Key"));
        let key_schema = format!(
            r#"{{"type":"struct","fields":[{}],"optional":false,"name":{key_name}}}"#,
            of_key.join(",")
        );
        let (row_name, name) =
            (text(&format!("{topic}.Value")), text(&format!("{topic}.Envelope")));
        let row = |field: &str| {
            let fields = schemas.join(",");
            format!(
                r#"{{"type":"struct","fields":[{fields}],"optional":true,"name":{row_name},"field":"{field}"}}"#
            )
        };
        let envelope_schema = format!(
            r#"{{"type":"struct","fields":[{},{},{SOURCE_SCHEMA},{TRANSACTION_SCHEMA},{{"type":"string","optional":false,"field":"op"}},{{"type":"int64","optional":true,"field":"ts_ms"}}],"optional":false,"name":{name},"version":2}}"#,
            row("before"),
            row("after"),
        );
        let source = format!(
            r#""version":"{VERSION}","connector":"{CONNECTOR}","name":{},"db":{},"table":{}"#,
            text(route.prefix),
            text(route.db),
            text(route.table),
        );
        let db = route.db.to_owned();
        Ok(Self { cells, key, key_schema, envelope_schema, source, db })
    }

    /// Whether the row has another key than before: such a change is written as two.
    pub(crate) fn is_rekeyed(&self, change: &RowChange<'_>) -> bool {
        let (Some(before), Some(after)) = (change.before, change.after) else { return false };
        self.key.iter().any(|&i| before.get(i) != after.get(i))
    }

    /// The messages of a change, in order: a delete is followed by its tombstone; a row with a new
    /// key is deleted under its old one first, and its place is that of the delete.
    pub(crate) fn messages(&self, change: &RowChange<'_>) -> Result<Vec<Outgoing>, Problem> {
        let image = change.after.or(change.before).unwrap_or_default();
        if !self.is_rekeyed(change) {
            let key = self.key(image)?;
            let value = Some(self.value(change)?);
            let message = Outgoing { key, value, header: None };
            return Ok(match change.op {
                ChangeOp::Delete => {
                    let tombstone = tombstone(&message.key);
                    vec![message, tombstone]
                }
                _ => vec![message],
            });
        }
        let (old, new) = (self.key(change.before.unwrap_or_default())?, self.key(image)?);
        let gone = RowChange { op: ChangeOp::Delete, after: None, ..*change };
        let next = |place: Place| Place {
            total_order: place.total_order + 1,
            order: place.order + 1,
            ..place
        };
        let place = change.place.map(next);
        let made = RowChange { op: ChangeOp::Create, before: None, place, ..*change };
        Ok(vec![
            Outgoing {
                key: old.clone(),
                value: Some(self.value(&gone)?),
                header: Some((NEW_KEY, new.clone())),
            },
            tombstone(&old),
            Outgoing { key: new, value: Some(self.value(&made)?), header: Some((OLD_KEY, old)) },
        ])
    }

    fn key(&self, row: &[Value]) -> Result<String, Problem> {
        let mut into = format!(r#"{{"schema":{},"payload":"#, self.key_schema);
        self.row(self.key.iter().copied(), Some(row), &mut into)?;
        into.push('}');
        Ok(into)
    }

    fn row(
        &self,
        columns: impl Iterator<Item = usize>,
        row: Option<&[Value]>,
        into: &mut String,
    ) -> Result<(), Problem> {
        let Some(row) = row else {
            into.push_str("null");
            return Ok(());
        };
        if row.len() > self.cells.len() {
            return Err(Problem::Envelope("its row has more columns than the table"));
        }
        let mut sign = '{';
        for at in columns {
            let Some(cell) = self.cells.get(at) else { continue };
            into.push(sign);
            into.push_str(&cell.quoted);
            into.push(':');
            cell.write(row.get(at).unwrap_or(&Value::Null), into)?;
            sign = ',';
        }
        into.push('}');
        Ok(())
    }

    fn value(&self, change: &RowChange<'_>) -> Result<String, Problem> {
        let all = || 0..self.cells.len();
        let mut into = String::with_capacity(self.envelope_schema.len() + 1024);
        into.push_str(r#"{"schema":"#);
        into.push_str(&self.envelope_schema);
        into.push_str(r#","payload":{"before":"#);
        self.row(all(), change.before, &mut into)?;
        into.push_str(r#","after":"#);
        self.row(all(), change.after, &mut into)?;
        let snapshot = change.op == ChangeOp::Read;
        let micros = change.committed_at;
        let _ = write!(
            into,
            r#","source":{{{},"ts_ms":{},"ts_us":{micros},"snapshot":"{snapshot}","change_id":{},"tx_id":"#,
            self.source,
            micros.div_euclid(1000),
            change.change_id,
        );
        match change.place {
            Some(Place { tx_id, total_order, order }) => {
                let id = transaction_id(&self.db, tx_id);
                let _ = write!(
                    into,
                    r#"{tx_id}}},"transaction":{{"id":{id},"total_order":{total_order},"data_collection_order":{order}}}"#,
                );
            }
            None => into.push_str(r#"null},"transaction":null"#),
        }
        let (op, now) = (change.op.as_str(), change.now_millis);
        let _ = write!(into, r#","op":"{op}","ts_ms":{now}}}}}"#);
        Ok(into)
    }
}

fn tombstone(key: &str) -> Outgoing {
    Outgoing { key: key.to_owned(), value: None, header: None }
}

/// What a transaction of a service is called, as JSON: unlike those of the others.
fn transaction_id(db: &str, tx_id: i64) -> String {
    text(&format!("{db}:{tx_id}"))
}

/// The beginning of a transaction, or with counts its end.
pub(crate) fn boundary(
    db: &str,
    tx_id: i64,
    committed_at: i64,
    counts: Option<&[(String, u64)]>,
) -> Outgoing {
    let (id, millis) = (transaction_id(db, tx_id), committed_at.div_euclid(1000));
    let key = format!(r#"{{"schema":{BOUNDARY_KEY_SCHEMA},"payload":{{"id":{id}}}}}"#);
    let (status, count, collections) = match counts {
        None => ("BEGIN", "null".to_owned(), "null".to_owned()),
        Some(counts) => {
            let each = counts.iter().map(|(table, count)| {
                let collection = text(&format!("{db}.{table}"));
                format!(r#"{{"data_collection":{collection},"event_count":{count}}}"#)
            });
            let each: Vec<String> = each.collect();
            let sum: u64 = counts.iter().map(|(_, count)| count).sum();
            ("END", sum.to_string(), format!("[{}]", each.join(",")))
        }
    };
    let value = format!(
        r#"{{"schema":{BOUNDARY_SCHEMA},"payload":{{"status":"{status}","id":{id},"event_count":{count},"data_collections":{collections},"ts_ms":{millis}}}}}"#
    );
    Outgoing { key, value: Some(value), header: None }
}

const SOURCE_SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"version"},{"type":"string","optional":false,"field":"connector"},{"type":"string","optional":false,"field":"name"},{"type":"string","optional":false,"field":"db"},{"type":"string","optional":false,"field":"table"},{"type":"int64","optional":false,"field":"ts_ms"},{"type":"int64","optional":true,"field":"ts_us"},{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"true,false"},"default":"false","field":"snapshot"},{"type":"int64","optional":false,"field":"change_id"},{"type":"int64","optional":true,"field":"tx_id"}],"optional":false,"name":"medlake.Source","field":"source"}"#;

const TRANSACTION_SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":false,"field":"total_order"},{"type":"int64","optional":false,"field":"data_collection_order"}],"optional":true,"name":"event.block","version":1,"field":"transaction"}"#;

const BOUNDARY_KEY_SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"}],"optional":false,"name":"io.debezium.connector.common.TransactionMetadataKey","version":1}"#;

const BOUNDARY_SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"status"},{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":true,"field":"event_count"},{"type":"array","items":{"type":"struct","fields":[{"type":"string","optional":false,"field":"data_collection"},{"type":"int64","optional":false,"field":"event_count"}],"optional":false,"name":"event.collection","version":1},"optional":true,"field":"data_collections"},{"type":"int64","optional":false,"field":"ts_ms"}],"optional":false,"name":"io.debezium.connector.common.TransactionMetadataValue","version":1}"#;
