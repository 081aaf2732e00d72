//! Tables as `information_schema` tells of them, in the terms of the binlog.

use std::collections::BTreeMap;

use medlake_contract::{ColumnType, SourceId, TableName};
use mysql_async::{Row, prelude::Queryable as _};

use super::{
    column::Decoder,
    config::MysqlConfig,
    connect::{Asking, Flavour},
    layout::{self, Layout},
    table_map::{BYTES, FixedBytes, TableMap, WireColumn, wire},
};
use crate::IngestError;

/// A table that can be selected from.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) layout: Layout,
    /// Its name in the source, with its database, quoted.
    name: String,
    /// Its columns' names in the source, and the collation of those that have one.
    columns: Vec<(String, Option<String>)>,
}

/// Tables, and those that cannot be taken in: name, reason, remedy.
#[derive(Debug, Default)]
pub(crate) struct All {
    pub(crate) tables: Vec<Found>,
    pub(crate) refused: Vec<(TableName, String, String)>,
}

impl Found {
    pub(crate) fn select(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|(name, _)| quoted(name)).collect();
        format!("select {} from {}", columns.join(", "), self.name)
    }

    /// Selects the smallest and the largest value of a column.
    pub(crate) fn ends(&self, at: usize) -> String {
        let column = self.column(at);
        format!("select min({column}), max({column}) from {}", self.name)
    }

    pub(crate) fn column(&self, at: usize) -> String {
        self.columns.get(at).map_or_else(String::new, |(name, _)| quoted(name))
    }

    pub(crate) fn is_text(&self, at: usize) -> bool {
        self.columns.get(at).is_some_and(|(_, collation)| collation.is_some())
    }

    /// The column as the lake orders it: what is a text there, by its bytes.
    pub(crate) fn ordered(&self, at: usize) -> String {
        let column = self.layout.schema.columns().get(at);
        let is_shown_as_text =
            column.is_some_and(|column| matches!(column.ty, ColumnType::Utf8 | ColumnType::Uuid));
        if self.is_text(at) || is_shown_as_text {
            format!("cast(convert({} using utf8mb4) as binary)", self.column(at))
        } else {
            self.column(at)
        }
    }

    /// A question mark that is compared as the column is.
    pub(crate) fn parameter(&self, at: usize) -> &'static str {
        match self.layout.decoders.get(at) {
            Some(Decoder::Decimal { .. } | Decoder::UnsignedBigInt | Decoder::AllBits) => {
                "cast(? as decimal(65, 30))"
            }
            Some(Decoder::Timestamp { .. } | Decoder::DateTime { .. }) => "cast(? as datetime(6))",
            Some(Decoder::Date { .. }) => "cast(? as date)",
            Some(Decoder::Time { .. } | Decoder::OldTime) => {
                "sec_to_time(cast(? as decimal(30, 0)) * 0.000001)"
            }
            _ => "?",
        }
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The tables of the database that are chosen.
pub(crate) async fn tables(
    asking: &mut Asking,
    at: &SourceId,
    config: &MysqlConfig,
) -> Result<All, IngestError> {
    let doing = "ask for its tables";
    let columns: Vec<Row> = asking
        .conn
        .exec(
            "select c.table_name, c.column_name, c.column_type, c.data_type, \
             c.numeric_precision, c.numeric_scale, c.datetime_precision, c.collation_name \
             from information_schema.columns c \
             join information_schema.tables t \
             on t.table_schema = c.table_schema and t.table_name = c.table_name \
             where c.table_schema = ? and t.table_type = 'BASE TABLE' \
             order by c.table_name, c.ordinal_position",
            (&config.database,),
        )
        .await
        .map_err(|error| asking.failed(doing, error))?;
    let keys: Vec<(String, String)> = asking
        .conn
        .exec(
            "select table_name, column_name from information_schema.statistics \
             where table_schema = ? and index_name = 'PRIMARY' order by table_name, seq_in_index",
            (&config.database,),
        )
        .await
        .map_err(|error| asking.failed(doing, error))?;
    let mut described: BTreeMap<String, Vec<Described>> = BTreeMap::new();
    for row in &columns {
        let Some(column) = Described::of(row) else { continue };
        let table: String = text(row, 0);
        described.entry(table).or_default().push(column);
    }
    let filter = config.filter();
    let mut all = All::default();
    let mut names: BTreeMap<TableName, String> = BTreeMap::new();
    for (table, columns) in described {
        if !filter.takes(&config.database, &table) {
            continue;
        }
        let name = match layout::table_name(at, &table) {
            Ok(name) => name,
            Err(refused) => {
                tracing::warn!(source = %at, table, reason = refused.reason, "is left out");
                continue;
            }
        };
        if let Some(other) = names.insert(name.clone(), table.clone()) {
            let reason = format!("\"{table}\" and \"{other}\" have one name in the lake");
            let remedy = "rename one of them, or leave it out by the source's setting `tables`";
            all.refused.push((name, reason, remedy.to_owned()));
            continue;
        }
        let key = keys.iter().filter(|(t, _)| *t == table);
        let key = key.filter_map(|(_, column)| columns.iter().position(|c| c.name == *column));
        let found = wire_columns(asking.flavour, &columns).and_then(|wire| {
            let map = TableMap {
                database: config.database.clone(),
                table: table.clone(),
                columns: wire,
                key: key.collect(),
                named: true,
                typed: true,
            };
            Layout::of(at, &map, None, config.datetimes)
        });
        match found {
            Ok(layout) => all.tables.push(Found {
                layout,
                name: format!("{}.{}", quoted(&config.database), quoted(&table)),
                columns: columns.into_iter().map(|c| (c.name, c.collation)).collect(),
            }),
            Err(refused) => all.refused.push((name, refused.reason, refused.remedy)),
        }
    }
    Ok(all)
}

/// What fixed bytes of a table are now, by the names of their columns, in lower case.
pub(crate) async fn fixed_bytes(
    asking: &mut Asking,
    database: &str,
    table: &str,
) -> Result<BTreeMap<String, FixedBytes>, IngestError> {
    let columns: Vec<(String, String)> = asking
        .conn
        .exec(
            "select column_name, data_type from information_schema.columns \
             where table_schema = ? and table_name = ?",
            (database, table),
        )
        .await
        .map_err(|error| asking.failed("ask for the columns of a table", error))?;
    let of = |(name, ty): (String, String)| (name.to_ascii_lowercase(), bytes_of(&ty));
    Ok(columns.into_iter().map(of).collect())
}

fn bytes_of(data_type: &str) -> FixedBytes {
    match data_type.to_ascii_lowercase().as_str() {
        "uuid" => FixedBytes::Uuid,
        "inet4" | "inet6" => FixedBytes::Address,
        _ => FixedBytes::Plain,
    }
}

#[derive(Debug)]
struct Described {
    name: String,
    column_type: String,
    data_type: String,
    precision: u16,
    scale: u16,
    digits: u16,
    collation: Option<String>,
}

fn text(row: &Row, at: usize) -> String {
    row.get_opt::<String, _>(at).and_then(Result::ok).unwrap_or_default()
}

impl Described {
    fn of(row: &Row) -> Option<Self> {
        let number = |at| row.get_opt::<u64, _>(at).and_then(Result::ok).unwrap_or(0);
        let number = |at| u16::try_from(number(at)).unwrap_or(u16::MAX);
        Some(Self {
            name: row.get_opt(1)?.ok()?,
            column_type: text(row, 2).trim().to_owned(),
            data_type: text(row, 3).to_ascii_lowercase(),
            precision: number(4),
            scale: number(5),
            digits: number(6),
            collation: row.get_opt(7).and_then(Result::ok),
        })
    }
}

fn wire_columns(
    flavour: Flavour,
    columns: &[Described],
) -> Result<Vec<WireColumn>, layout::Refused> {
    columns.iter().map(|column| wire_column(flavour, column)).collect()
}

/// What a table map would say of the column, as far as it matters for values that come as UTF-8.
fn wire_column(flavour: Flavour, column: &Described) -> Result<WireColumn, layout::Refused> {
    let declared = column.column_type.to_ascii_lowercase();
    let unsigned = declared.contains("unsigned");
    let (ty, meta) = match column.data_type.as_str() {
        "tinyint" => (wire::TINY, 0),
        "smallint" => (wire::SHORT, 0),
        "mediumint" => (wire::INT24, 0),
        "int" => (wire::LONG, 0),
        "bigint" => (wire::LONGLONG, 0),
        "float" => (wire::FLOAT, 4),
        "double" => (wire::DOUBLE, 8),
        "decimal" => (wire::NEWDECIMAL, column.precision * 256 + column.scale % 256),
        "bit" => (wire::BIT, (column.precision / 8 * 256) + column.precision % 8),
        "year" => (wire::YEAR, 0),
        "date" => (wire::DATE, 0),
        "time" => (wire::TIME2, column.digits),
        "datetime" => (wire::DATETIME2, column.digits),
        "timestamp" => (wire::TIMESTAMP2, column.digits),
        "char" | "binary" => (wire::STRING, 0),
        "uuid" | "inet6" => (wire::STRING, 16),
        "inet4" => (wire::STRING, 4),
        "varchar" | "varbinary" => (wire::VARCHAR, 0),
        "tinytext" | "text" | "mediumtext" | "longtext" | "tinyblob" | "blob" | "mediumblob"
        | "longblob" => (wire::BLOB, 2),
        "enum" => (wire::ENUM, 1),
        "set" => (wire::SET, 1),
        // MariaDB's is text that is checked.
        "json" if flavour == Flavour::MariaDb => (wire::BLOB, 4),
        "json" => (wire::JSON, 4),
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => (wire::GEOMETRY, 4),
        "vector" => (wire::VECTOR, 4),
        other => {
            return Err(layout::Refused {
                reason: format!("column \"{}\" is of type {other}", column.name),
                remedy: "change the column in the source, or leave the table out by the source's \
                         setting `tables`"
                    .to_owned(),
            });
        }
    };
    // Any text comes as UTF-8 (45 is utf8mb4); bytes stay bytes.
    let is_json = matches!(column.data_type.as_str(), "enum" | "set" | "json");
    let collation = if column.collation.is_some() || is_json { 45 } else { BYTES };
    let name = column.name.clone();
    let bytes = bytes_of(&column.data_type);
    Ok(WireColumn { name, ty, meta, unsigned, collation, members: Vec::new(), bytes })
}
