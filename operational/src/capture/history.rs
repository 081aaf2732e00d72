//! What the columns of tables were.
//!
//! `cdc_schema` has a row for each shape a table came to have: what it was before and is after, each a
//! JSON array of `[name, type, required, place in the key]`, null where there is no such table. Those
//! that a migration makes of tables that have changes already stand in `cdc_change` as well, as changes
//! of the table `cdc_schema`, and `change_id` is where. Changes before it are written by the columns
//! before, those after it by the columns after.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{Column, Table, tables};
use crate::OperationalError;

const HISTORY: &str = "create table if not exists cdc_schema (
    schema_id integer primary key autoincrement,
    change_id integer not null,
    table_name text not null,
    before text,
    after text,
    reread integer not null check (reread in (0, 1))
)";

/// Notes what the tables are before anything is done to them, in a database whose history begins now.
pub(crate) async fn remember(connection: &mut SqliteConnection) -> Result<(), OperationalError> {
    sqlx::query(HISTORY).execute(&mut *connection).await?;
    let begun = "select exists (select 1 from cdc_schema)";
    if !sqlx::query_scalar(begun).fetch_one(&mut *connection).await? {
        for table in tables(connection).await? {
            note(connection, 0, &table.name, None, Some(&shape(&table.columns)), false).await?;
        }
    }
    Ok(())
}

/// Notes what became of tables. Where rows are not what their changes say any more, whoever reads the
/// changes is told to read them again.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    tables: &[Table],
    written: bool,
) -> Result<(), OperationalError> {
    let known: Vec<(String, Option<String>)> =
        sqlx::query_as("select table_name, after from cdc_schema order by schema_id")
            .fetch_all(&mut *connection)
            .await?;
    let is_first = known.is_empty();
    // The last one counts.
    let mut known: BTreeMap<String, String> = {
        let mut last = BTreeMap::new();
        for (name, after) in known {
            last.insert(name, after);
        }
        last.into_iter().filter_map(|(name, after)| Some((name, after?))).collect()
    };
    let mut transaction = None;
    for table in tables {
        let (before, after) = (known.remove(&table.name), shape(&table.columns));
        let reread =
            before.as_ref().is_some_and(|before| written || are_rows_other(before, &table.columns));
        if before.as_deref() == Some(after.as_str()) && !reread {
            continue;
        }
        let at = match is_first {
            true => 0,
            false => {
                let before = before.as_deref();
                mark(connection, &mut transaction, &table.name, before, Some(&after), reread)
                    .await?
            }
        };
        note(connection, at, &table.name, before.as_deref(), Some(&after), reread).await?;
    }
    for (name, before) in known {
        let at = mark(connection, &mut transaction, &name, Some(&before), None, false).await?;
        note(connection, at, &name, Some(&before), None, false).await?;
    }
    Ok(())
}

/// Whether columns that came may have values in rows that no change tells of: a default, or those of a
/// column that went, which had another name then.
fn are_rows_other(before: &str, columns: &[Column]) -> bool {
    let before: Vec<(String, String, bool, i64)> = serde_json::from_str(before).unwrap_or_default();
    let came = columns.iter().filter(|c| !before.iter().any(|(name, ..)| *name == c.name));
    let mut went = before.iter().filter(|(name, ..)| !columns.iter().any(|c| c.name == *name));
    let came: Vec<&Column> = came.collect();
    came.iter().any(|c| c.has_default) || (!came.is_empty() && went.next().is_some())
}

/// A table's columns as they are noted.
fn shape(columns: &[Column]) -> String {
    let column = |c: &Column| json!([c.name, c.declared, c.required, c.key]);
    Value::Array(columns.iter().map(column).collect()).to_string()
}

/// Writes it into the change table, all of one migration in one transaction.
async fn mark(
    connection: &mut SqliteConnection,
    transaction: &mut Option<i64>,
    table: &str,
    before: Option<&str>,
    after: Option<&str>,
    reread: bool,
) -> Result<i64, OperationalError> {
    let tx_id: i64 = match transaction {
        Some(tx_id) => *tx_id,
        // As of the one before it: nobody has to know when that was.
        None => {
            sqlx::query_scalar(
                "insert into cdc_transaction (committed_at)
                 values (coalesce((select max(committed_at) from cdc_transaction), 0))
                 returning tx_id",
            )
            .fetch_one(&mut *connection)
            .await?
        }
    };
    *transaction = Some(tx_id);
    Ok(sqlx::query_scalar(
        "insert into cdc_change (tx_id, table_name, op, after)
         values (?1, 'cdc_schema', 'c', json_array(?2, json(?3), json(?4), ?5))
         returning change_id",
    )
    .bind(tx_id)
    .bind(table)
    .bind(before)
    .bind(after)
    .bind(reread)
    .fetch_one(connection)
    .await?)
}

async fn note(
    connection: &mut SqliteConnection,
    change_id: i64,
    table: &str,
    before: Option<&str>,
    after: Option<&str>,
    reread: bool,
) -> Result<(), OperationalError> {
    sqlx::query(
        "insert into cdc_schema (change_id, table_name, before, after, reread)
         values (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(change_id)
    .bind(table)
    .bind(before)
    .bind(after)
    .bind(reread)
    .execute(connection)
    .await?;
    Ok(())
}
