use std::{collections::BTreeMap, sync::Arc};

use medlake_contract::{Column, ColumnType, SourceId, TableName, TableSchema};
use serde::Deserialize;
use sqlx::SqliteConnection;

use crate::IngestError;

/// A captured table: its schema and its own name in the database.
#[derive(Debug, Clone)]
pub(crate) struct CapturedTable {
    pub(crate) name: String,
    pub(crate) schema: Arc<TableSchema>,
}

impl CapturedTable {
    /// The row as the change table has it: a JSON array of all columns in table order, bytes as
    /// hexadecimal text, reals as text of 17 significant digits.
    pub(crate) fn image_sql(&self) -> String {
        let columns: Vec<String> = self
            .schema
            .columns()
            .iter()
            .map(|column| {
                let name = quoted(&column.name);
                match column.ty {
                    ColumnType::Binary => format!("iif({name} is null, null, hex({name}))"),
                    ColumnType::Float64 => {
                        format!("iif({name} is null, null, format('%!.17g', {name}))")
                    }
                    _ => name,
                }
            })
            .collect();
        format!("json_array({})", columns.join(", "))
    }
}

/// Text as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether rows of this table are nobody's business but the service's own.
fn internal(table: &str) -> bool {
    ["cdc_", "sqlx_", "sqlite_", "_", "outbox", "idempotency"].iter().any(|p| table.starts_with(p))
}

/// What the captured tables of a database are called, in order.
pub(crate) async fn names(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let sql = "select name from sqlite_schema where type = 'table' order by name";
    let mut names: Vec<String> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    names.retain(|name| !internal(name));
    Ok(names)
}

/// The captured tables of a database as they were at a place: by the columns they have then, the changes
/// after it are written.
pub(crate) async fn tables_at(
    at: &SourceId,
    connection: &mut SqliteConnection,
    place: i64,
) -> Result<Vec<CapturedTable>, IngestError> {
    let database =
        |source| IngestError::Database { at: at.clone(), doing: "read the schema", source };
    let mut shapes = shapes(connection).await.map_err(database)?;
    let exists = "select exists (select 1 from sqlite_schema where name = 'cdc_schema')";
    if sqlx::query_scalar(exists).fetch_one(&mut *connection).await.map_err(database)? {
        let sql = "select table_name, before from cdc_schema
                   where change_id > ? order by schema_id desc";
        let undone: Vec<(String, Option<String>)> =
            sqlx::query_as(sql).bind(place).fetch_all(connection).await.map_err(database)?;
        for (table, before) in undone {
            let before = before.as_deref().map(serde_json::from_str).transpose();
            let before = before.map_err(|error| IngestError::Schema {
                at: at.clone(),
                table: table.clone(),
                problem: format!("what it was cannot be read: {error}"),
            })?;
            match before {
                Some(before) => drop(shapes.insert(table, before)),
                None => drop(shapes.remove(&table)),
            }
        }
    }
    shapes.into_iter().map(|(name, shape)| captured(at, name, &shape)).collect()
}

/// The captured tables of a database as they are, by name.
#[cfg(test)]
pub(crate) async fn tables(
    at: &SourceId,
    connection: &mut SqliteConnection,
) -> Result<Vec<CapturedTable>, IngestError> {
    tables_at(at, connection, i64::MAX).await
}

async fn shapes(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<String, Vec<Declared>>, sqlx::Error> {
    let mut shapes = BTreeMap::new();
    for name in names(connection).await? {
        // Computed columns are not in the images.
        let sql = "select name, type, \"notnull\", pk from pragma_table_xinfo(?)
                   where hidden = 0 order by cid";
        let columns: Vec<(String, String, bool, i64)> =
            sqlx::query_as(sql).bind(&name).fetch_all(&mut *connection).await?;
        let column = |(name, ty, required, key)| Declared { name, ty, required, key };
        shapes.insert(name, columns.into_iter().map(column).collect());
    }
    Ok(shapes)
}

fn captured(at: &SourceId, name: String, shape: &[Declared]) -> Result<CapturedTable, IngestError> {
    match table_schema(at, &name, shape) {
        Ok(schema) => Ok(CapturedTable { name, schema: Arc::new(schema) }),
        Err(problem) => Err(IngestError::Schema { at: at.clone(), table: name, problem }),
    }
}

/// What became of a table, as it stands in the change table right where it happened.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) table: String,
    /// As it was, if it was there.
    pub(crate) before: Option<CapturedTable>,
    pub(crate) after: Option<CapturedTable>,
    /// Whether its rows are not what its changes say.
    pub(crate) reread: bool,
}

impl Mark {
    /// The table whose changes are these.
    pub(crate) const TABLE: &'static str = "cdc_schema";

    pub(crate) fn read(at: &SourceId, change_id: i64, image: &[u8]) -> Result<Self, IngestError> {
        type Image = (String, Option<Vec<Declared>>, Option<Vec<Declared>>, i64);
        let read = serde_json::from_slice::<Image>(image);
        let (table, before, after, reread) = read.map_err(|error| IngestError::Change {
            at: at.clone(),
            table: Self::TABLE.to_owned(),
            change_id,
            problem: format!("cannot be read: {error}"),
        })?;
        let captured = |shape: Option<Vec<Declared>>| {
            shape.map(|shape| captured(at, table.clone(), &shape)).transpose()
        };
        let (before, after) = (captured(before)?, captured(after)?);
        Ok(Self { table, before, after, reread: reread != 0 })
    }
}

/// A column as it is declared; stored as a JSON array of these.
#[derive(Debug, Deserialize)]
struct Declared {
    name: String,
    ty: String,
    required: bool,
    /// Its place in the primary key, from 1; 0 when it is not in it.
    key: i64,
}

fn table_schema(at: &SourceId, table: &str, declared: &[Declared]) -> Result<TableSchema, String> {
    let name: TableName =
        format!("{at}.{table}").parse().map_err(|e| format!("its name does not do: {e}"))?;
    let columns = declared
        .iter()
        .map(|column| {
            let ty = column_type(&column.ty)
                .ok_or_else(|| format!("column \"{}\" has type \"{}\"", column.name, column.ty))?;
            // SQLite does not mark an integer primary key as not null, though it never is.
            Ok(if column.required || column.key > 0 {
                Column::required(&column.name, ty)
            } else {
                Column::nullable(&column.name, ty)
            })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let mut key: Vec<&Declared> = declared.iter().filter(|c| c.key > 0).collect();
    key.sort_by_key(|c| c.key);
    let key: Vec<&str> = key.iter().map(|c| c.name.as_str()).collect();
    TableSchema::new(name, columns, &key).map_err(|e| e.to_string())
}

/// The meaning of a declared column type.
fn column_type(declared: &str) -> Option<ColumnType> {
    Some(match declared.to_ascii_uppercase().as_str() {
        "INTEGER" => ColumnType::Int64,
        "TEXT" => ColumnType::Utf8,
        "BOOLEAN" => ColumnType::Boolean,
        "REAL" => ColumnType::Float64,
        "DATE" => ColumnType::Date,
        "TIMESTAMP" => ColumnType::TimestampMicros,
        "BLOB" => ColumnType::Binary,
        _ => return None,
    })
}
