//! Change capture: triggers that write each row change of each table into `cdc_change`, with the row
//! before and after it, in the transaction that made it.
//!
//! An image is a JSON array of the table's columns in order. Integers stay integers of 64 bits, a
//! `REAL` is text that reads back to the same double (`Inf` and `-Inf` too), a `BLOB` is hexadecimal
//! text, and null is null.
//! The triggers are generated from the tables as they are, after every migration. What a migration made
//! of a table stands in the change table too, right where it happened: whoever reads on from before knows
//! by which columns each image is written.

mod history;

use sqlx::{AssertSqlSafe, SqliteConnection};

pub(crate) use self::history::remember;
use crate::OperationalError;

/// The declared column types that readers of the change table understand.
const KNOWN_TYPES: [&str; 7] = ["INTEGER", "TEXT", "BOOLEAN", "REAL", "DATE", "TIMESTAMP", "BLOB"];

/// Tables a service keeps for itself.
const INTERNAL_PREFIXES: [&str; 6] = ["_", "cdc_", "sqlx_", "sqlite_", "outbox", "idempotency"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    declared: String,
    required: bool,
    /// Its place in the primary key, from 1; 0 when it is not in it.
    key: i64,
    has_default: bool,
}

/// A captured table as it is.
#[derive(Debug, Clone)]
struct Table {
    name: String,
    columns: Vec<Column>,
}

/// Makes the capture triggers fit the tables: creates, replaces and drops as needed; and says in the
/// change table what became of tables. `written` is whether rows may have changed without triggers.
pub(crate) async fn install(
    connection: &mut SqliteConnection,
    written: bool,
) -> Result<(), OperationalError> {
    let tables = tables(connection).await?;
    let mut wanted = Vec::new();
    for Table { name, columns } in &tables {
        for column in columns {
            if !KNOWN_TYPES.contains(&column.declared.as_str()) {
                return Err(OperationalError::Undeclared {
                    table: name.clone(),
                    column: column.name.clone(),
                    declared: column.declared.clone(),
                });
            }
        }
        wanted.extend(triggers(name, columns));
    }
    let present = present(connection).await?;
    for (name, _) in present.iter().filter(|trigger| !wanted.contains(trigger)) {
        drop_trigger(connection, name).await?;
    }
    for (_, sql) in wanted.iter().filter(|trigger| !present.contains(trigger)) {
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *connection).await?;
    }
    history::record(connection, &tables, written).await
}

/// Takes the triggers away: a migration cannot drop a column that one of them names.
pub(crate) async fn remove(connection: &mut SqliteConnection) -> Result<(), OperationalError> {
    for (name, _) in present(connection).await? {
        drop_trigger(connection, &name).await?;
    }
    Ok(())
}

/// Name and statement of the triggers there are.
async fn present(
    connection: &mut SqliteConnection,
) -> Result<Vec<(String, String)>, OperationalError> {
    Ok(sqlx::query_as(
        "select name, sql from sqlite_schema where type = 'trigger' and name like 'cdc\\_%' escape '\\'",
    )
    .fetch_all(connection)
    .await?)
}

async fn drop_trigger(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<(), OperationalError> {
    let drop = format!("drop trigger {}", quote(name));
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(connection).await?;
    Ok(())
}

/// The captured tables, in the order of their names.
async fn tables(connection: &mut SqliteConnection) -> Result<Vec<Table>, OperationalError> {
    let names: Vec<String> =
        sqlx::query_scalar("select name from sqlite_schema where type = 'table' order by name")
            .fetch_all(&mut *connection)
            .await?;
    let mut tables = Vec::new();
    for name in names.into_iter().filter(|t| captured(t)) {
        let columns: Vec<(String, String, bool, i64, bool)> = sqlx::query_as(
            "select name, upper(type), \"notnull\", pk, dflt_value is not null
             from pragma_table_xinfo(?1) where hidden = 0 order by cid",
        )
        .bind(&name)
        .fetch_all(&mut *connection)
        .await?;
        let column = |(name, declared, required, key, has_default)| Column {
            name,
            declared,
            required,
            key,
            has_default,
        };
        tables.push(Table { name, columns: columns.into_iter().map(column).collect() });
    }
    Ok(tables)
}

fn captured(table: &str) -> bool {
    !INTERNAL_PREFIXES.iter().any(|prefix| table.starts_with(prefix))
}

/// Name and statement of the three triggers of a table.
fn triggers(table: &str, columns: &[Column]) -> [(String, String); 3] {
    let trigger = |event: &str, when: &str, op: &str, before: &str, after: &str| {
        let name = format!("cdc_{table}_{event}");
        let sql = format!(
            "CREATE TRIGGER {trigger} after {event} on {quoted}{when}\nbegin\n    \
             insert into cdc_change (tx_id, table_name, op, before, after)\n    \
             values ((select max(tx_id) from cdc_transaction), '{text}', '{op}', {before}, {after});\nend",
            trigger = quote(&name),
            quoted = quote(table),
            text = table.replace('\'', "''"),
        );
        (name, sql)
    };
    let old = image("old", table, columns);
    let new = image("new", table, columns);
    let changed = columns
        .iter()
        .map(|c| format!("old.{0} is not new.{0}", quote(&c.name)))
        .collect::<Vec<_>>()
        .join("\n    or ");
    [
        trigger("insert", "", "c", "null", &new),
        trigger("update", &format!("\nwhen {changed}"), "u", &old, &new),
        trigger("delete", "", "d", &old, "null"),
    ]
}

/// The expression that gives a row as a JSON array.
fn image(row: &str, table: &str, columns: &[Column]) -> String {
    let values = columns
        .iter()
        .map(|column| {
            let value = format!("{row}.{}", quote(&column.name));
            match column.declared.as_str() {
                "REAL" => real(&value, table, &column.name),
                "BLOB" => format!("iif({value} is null, null, hex({value}))"),
                _ => value,
            }
        })
        .collect::<Vec<_>>()
        .join(", ");
    format!("json_array({values})")
}

/// Text of 17 digits, which reads back to the same double. SQLite prints it exactly only while the
/// magnitude is between 1e-50 and 1e50; a value outside is refused rather than changed on the way.
fn real(value: &str, table: &str, column: &str) -> String {
    let place = format!("{table}.{column}").replace('\'', "''");
    format!(
        "case when {value} is null then null \
         when abs({value}) not between 1e-50 and 1e50 and {value} not in (0.0, 9e999, -9e999) \
         then raise(abort, '{place} is outside 1e-50 to 1e50, which change capture cannot keep exactly') \
         else format('%!.17g', {value}) end"
    )
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
