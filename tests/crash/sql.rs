//! Transactions and tables of the model as SQL of a database.

use std::fmt::Write as _;

use chrono::{DateTime, Days, NaiveDate};

use super::model::{Action, Alter, Column, Key, Kind, Table, Value, WORDS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    MariaDb,
    Sqlite,
}

/// Rows of one insert statement.
const ROWS: usize = 200;

impl Dialect {
    pub(crate) const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::MariaDb => &[
                Kind::Bool,
                Kind::TinyInt,
                Kind::SmallInt,
                Kind::Int,
                Kind::IntUnsigned,
                Kind::BigInt,
                Kind::BigIntUnsigned,
                Kind::Decimal(10, 2),
                Kind::Decimal(65, 30),
                Kind::Float,
                Kind::Double,
                Kind::Varchar(40),
                Kind::Text,
                Kind::Blob,
                Kind::Date,
                Kind::DateTime,
                Kind::Timestamp,
                Kind::Time,
                Kind::Year,
                Kind::Enum,
                Kind::Set,
                Kind::Json,
                Kind::Bits,
                Kind::Uuid,
                Kind::Inet6,
            ],
            Self::Sqlite => &[
                Kind::Bool,
                Kind::BigInt,
                Kind::Double,
                Kind::Text,
                Kind::Blob,
                Kind::Date,
                Kind::DateTime,
            ],
        }
    }

    fn type_of(self, kind: Kind) -> String {
        if self == Self::Sqlite {
            let name = match kind {
                Kind::Bool => "boolean",
                Kind::Int | Kind::BigInt => "integer",
                Kind::Double => "real",
                Kind::Varchar(_) | Kind::Text => "text",
                Kind::Blob => "blob",
                Kind::Date => "date",
                Kind::DateTime => "timestamp",
                other => panic!("no type for {other:?}"),
            };
            return name.to_owned();
        }
        match kind {
            Kind::Bool => "bit(1)".to_owned(),
            Kind::TinyInt => "tinyint".to_owned(),
            Kind::SmallInt => "smallint".to_owned(),
            Kind::Int => "int".to_owned(),
            Kind::IntUnsigned => "int unsigned".to_owned(),
            Kind::BigInt => "bigint".to_owned(),
            Kind::BigIntUnsigned => "bigint unsigned".to_owned(),
            Kind::Decimal(digits, scale) => format!("decimal({digits},{scale})"),
            Kind::Float => "float".to_owned(),
            Kind::Double => "double".to_owned(),
            Kind::Varchar(length) => format!("varchar({length})"),
            Kind::Text => "mediumtext".to_owned(),
            Kind::Blob => "mediumblob".to_owned(),
            Kind::Date => "date".to_owned(),
            Kind::DateTime => "datetime(6)".to_owned(),
            Kind::Timestamp => "timestamp(6)".to_owned(),
            Kind::Time => "time(6)".to_owned(),
            Kind::Year => "year".to_owned(),
            Kind::Enum | Kind::Set => {
                let words = WORDS.map(|word| self.quoted(word)).join(", ");
                format!("{}({words})", if kind == Kind::Enum { "enum" } else { "set" })
            }
            Kind::Json => "json".to_owned(),
            Kind::Bits => "bit(8)".to_owned(),
            Kind::Uuid => "uuid".to_owned(),
            Kind::Inet6 => "inet6".to_owned(),
        }
    }

    fn column(self, column: &Column) -> String {
        let null = if column.nullable { "null" } else { "not null" };
        format!("{} {} {null}", column.name, self.type_of(column.kind))
    }

    pub(crate) fn create(self, table: &Table) -> Vec<String> {
        let mut parts: Vec<String> = table.columns.iter().map(|c| self.column(c)).collect();
        if table.key != Key::None {
            let key: Vec<&str> = table.key_columns().iter().map(|c| c.name.as_str()).collect();
            parts.push(format!("primary key ({})", key.join(", ")));
        }
        let name = &table.name;
        let mut statements = vec![format!("create table {name} ({})", parts.join(", "))];
        statements.push(format!("create index {name}_slot on {name} (slot)"));
        statements
    }

    fn quoted(self, text: &str) -> String {
        let text = text.replace('\'', "''");
        match self {
            Self::MariaDb => format!("'{}'", text.replace('\\', "\\\\")),
            Self::Sqlite => format!("'{text}'"),
        }
    }

    fn literal(self, value: &Value) -> String {
        match value {
            Value::Null => "null".to_owned(),
            Value::Bool(bool) => u8::from(*bool).to_string(),
            Value::Int(int) => int.to_string(),
            Value::Decimal(digits) => digits.clone(),
            Value::Double(double) => format!("{double:e}"),
            Value::Text(text) => self.quoted(text),
            Value::Bytes(bytes) => {
                bytes.iter().fold("x'".to_owned(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                }) + "'"
            }
            Value::Days(days) => format!("'{}'", day(*days)),
            Value::Micros(micros) if self == Self::Sqlite => micros.to_string(),
            Value::Micros(micros) => {
                let at = DateTime::from_timestamp_micros(*micros).unwrap();
                format!("'{}'", at.format("%Y-%m-%d %H:%M:%S%.6f"))
            }
            Value::Clock(micros) => {
                let sign = if *micros < 0 { "-" } else { "" };
                let micros = micros.abs();
                let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
                let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
                format!("'{sign}{hours:02}:{minutes:02}:{:02}.{rest:06}'", seconds % 60)
            }
        }
    }

    fn list(self, values: &[Value]) -> String {
        values.iter().map(|v| self.literal(v)).collect::<Vec<_>>().join(", ")
    }

    /// The statements of an action.
    pub(crate) fn statements(self, table: &Table, action: &Action) -> Vec<String> {
        let name = &table.name;
        let ignore = match self {
            Self::MariaDb => "ignore",
            Self::Sqlite => "or ignore",
        };
        let assigned = |columns: &mut dyn Iterator<Item = (&Column, &Value)>| {
            columns
                .map(|(column, value)| format!("{} = {}", column.name, self.literal(value)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match action {
            Action::Insert(rows) | Action::Replace(rows) => {
                // A replaced row fires no delete trigger in SQLite, so there it is left out.
                let replace = matches!(action, Action::Replace(_)) && self == Self::MariaDb;
                let verb = if replace { "replace".to_owned() } else { format!("insert {ignore}") };
                let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
                let names = names.join(", ");
                rows.chunks(ROWS)
                    .map(|rows| {
                        let rows = rows.iter().map(|(slot, payload)| {
                            let values = [table.head(*slot), payload.clone()].concat();
                            format!("({})", self.list(&values))
                        });
                        let rows = rows.collect::<Vec<_>>().join(", ");
                        format!("{verb} into {name} ({names}) values {rows}")
                    })
                    .collect()
            }
            Action::Update(_, sets) if sets.is_empty() => vec![],
            Action::Update(slots, sets) => {
                let sets = assigned(&mut sets.iter().map(|(i, v)| (&table.columns[*i], v)));
                let (from, to) = (slots.start, slots.end);
                vec![format!("update {name} set {sets} where slot >= {from} and slot < {to}")]
            }
            Action::Rekey(from, to) => {
                let head = table.head(*to);
                let sets = assigned(&mut table.columns.iter().zip(&head));
                vec![format!("update {ignore} {name} set {sets} where slot = {from}")]
            }
            Action::Delete(slots) => {
                let (from, to) = (slots.start, slots.end);
                vec![format!("delete from {name} where slot >= {from} and slot < {to}")]
            }
            Action::Truncate => vec![format!("truncate table {name}")],
        }
    }

    pub(crate) fn alter(self, table: &Table, change: &Alter) -> String {
        let name = &table.name;
        match change {
            Alter::Add { column, .. } if self == Self::Sqlite => {
                format!("alter table {name} add column {}", self.column(column))
            }
            Alter::Add { column, at } => {
                // Some have values in the rows there are, which the server logs nothing of.
                let filled = match column.kind {
                    Kind::SmallInt | Kind::Int | Kind::BigInt => " default 7",
                    Kind::Varchar(_) => " default 'wert'",
                    Kind::Date => " default '2024-02-29'",
                    Kind::Uuid => " default uuid()",
                    Kind::Inet6 => " default '::1'",
                    _ => "",
                };
                let place = format!("after {}", table.columns[at - 1].name);
                format!("alter table {name} add column {}{filled} {place}", self.column(column))
            }
            Alter::Drop { name: column } => format!("alter table {name} drop column {column}"),
            Alter::Rename { name: column, to } => {
                format!("alter table {name} rename column {column} to {to}")
            }
            Alter::Widen { name: column, kind } => {
                format!("alter table {name} modify column {column} {} null", self.type_of(*kind))
            }
        }
    }

    /// The expression whose text shows a column's value exactly.
    pub(crate) fn shown(self, column: &Column) -> String {
        let name = &column.name;
        match (self, column.kind) {
            // Of null SQLite makes empty text and 0.0.
            (Self::Sqlite, Kind::Blob) => format!("iif({name} is null, null, hex({name}))"),
            (Self::Sqlite, Kind::Double) => {
                format!("iif({name} is null, null, format('%!.17g', {name}))")
            }
            (_, Kind::Blob) => format!("hex({name})"),
            (Self::MariaDb, Kind::Bool | Kind::Bits) => format!("cast({name} + 0 as char)"),
            (Self::MariaDb, _) => format!("cast({name} as char)"),
            (Self::Sqlite, _) => format!("cast({name} as text)"),
        }
    }
}

fn day(days: i32) -> NaiveDate {
    let days_since = Days::new(days.unsigned_abs().into());
    let epoch = NaiveDate::default();
    if days < 0 { epoch - days_since } else { epoch + days_since }
}
