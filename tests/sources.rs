//! The operational databases, read directly: what the lake must equal.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use sqlx::{
    Column as _, ConnectOptions as _, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

pub(crate) const SOURCES: [&str; 3] = ["mall", "distribution", "chronic_care"];

pub(crate) async fn open(data: &Path, source: &str) -> SqliteConnection {
    let file = data.join("operational").join(format!("{source}.db"));
    SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .busy_timeout(std::time::Duration::from_secs(10))
        .connect()
        .await
        .unwrap()
}

/// The position each source must be read to, for everything committed to be visible.
pub(crate) async fn last_changes(data: &Path) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    for source in SOURCES {
        let mut db = open(data, source).await;
        let id: Option<i64> =
            sqlx::query_scalar("select seq from sqlite_sequence where name = 'cdc_change'")
                .fetch_optional(&mut db)
                .await
                .unwrap();
        if let Some(id) = id {
            last.insert(source.to_owned(), format!("change:{id}"));
        }
    }
    last
}

/// The tables of a service that are captured, with their primary key columns; without those that the
/// crash tests add.
pub(crate) async fn tables(db: &mut SqliteConnection) -> Vec<(String, Vec<String>)> {
    let names: Vec<String> = sqlx::query_scalar(
        "select name from sqlite_schema where type = 'table' and name not like 'cdc\\_%' escape '\\' \
         and name not like '\\_%' escape '\\' and name not like 'sqlite\\_%' escape '\\' \
         and name not like 'sqlx\\_%' escape '\\' and name not like 'outbox%' \
         and name not like 'idempotency%' and name not like 'crash\\_%' escape '\\' order by name",
    )
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let mut tables = Vec::new();
    for name in names {
        let key =
            sqlx::query_scalar("select name from pragma_table_xinfo(?) where pk > 0 order by pk")
                .bind(&name)
                .fetch_all(&mut *db)
                .await
                .unwrap();
        tables.push((name, key));
    }
    tables
}

/// The rows of a statement, each cell as the JSON the query server would answer for it.
pub(crate) async fn rows(db: &mut SqliteConnection, sql: &str) -> Vec<Vec<Value>> {
    let statement = sqlx::AssertSqlSafe(sql.to_owned());
    let rows = sqlx::query(statement).fetch_all(db).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    rows.iter().map(|row| (0..row.len()).map(|i| cell(row, i)).collect()).collect()
}

fn cell(row: &SqliteRow, i: usize) -> Value {
    let raw = row.try_get_raw(i).unwrap();
    if raw.is_null() {
        return Value::Null;
    }
    let declared = row.column(i).type_info().name().to_uppercase();
    let stored = raw.type_info().name().to_uppercase();
    match (declared.as_str(), stored.as_str()) {
        ("BOOLEAN", _) => Value::Bool(row.get::<i64, _>(i) != 0),
        (_, "INTEGER" | "INT8" | "BIGINT") => Value::from(row.get::<i64, _>(i)),
        (_, "REAL") => Value::from(row.get::<f64, _>(i)),
        (_, "BOOLEAN") => Value::Bool(row.get::<i64, _>(i) != 0),
        _ => Value::from(row.get_unchecked::<String, _>(i)),
    }
}
