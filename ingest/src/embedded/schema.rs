use std::sync::Arc;

use medlake_contract::{Column, ColumnType, SourceId, TableName, TableSchema};
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

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

/// The captured tables of a database, by name.
pub(crate) async fn tables(
    at: &SourceId,
    connection: &mut SqliteConnection,
) -> Result<Vec<CapturedTable>, IngestError> {
    let database =
        |source| IngestError::Database { at: at.clone(), doing: "read the schema", source };
    let names = names(connection).await.map_err(database)?;
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        let rows = sqlx::query(AssertSqlSafe(format!("pragma table_xinfo({})", quoted(&name))))
            .fetch_all(&mut *connection)
            .await
            .map_err(database)?;
        let mut columns = Vec::with_capacity(rows.len());
        for row in &rows {
            // Computed columns are not in the images.
            if row.try_get::<i64, _>("hidden").map_err(database)? != 0 {
                continue;
            }
            columns.push(Declared {
                name: row.try_get("name").map_err(database)?,
                ty: row.try_get("type").map_err(database)?,
                required: row.try_get::<i64, _>("notnull").map_err(database)? != 0,
                key: row.try_get("pk").map_err(database)?,
            });
        }
        let schema = table_schema(at, &name, &columns).map_err(|problem| IngestError::Schema {
            at: at.clone(),
            table: name.clone(),
            problem,
        })?;
        tables.push(CapturedTable { name, schema: Arc::new(schema) });
    }
    Ok(tables)
}

/// One row of `pragma table_xinfo`.
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
