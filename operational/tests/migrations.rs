//! The two forms of each service's tables are the same tables.

use medlake_operational::Database;

use serde_json::json;

use crate::{App, On, rows, run};

on_both! { ids_go_on_where_they_were_without_their_numbers }

/// Table, column, type as readers of changes know it, whether it may be null, whether it is of the key.
type Column = (String, String, String, i64, i64);

async fn columns(database: &Database) -> Vec<Column> {
    let mut connection = database.read().await.unwrap();
    let sql = match &*connection {
        medlake_operational::Connection::Sqlite(_) => {
            "select m.name, c.name, upper(c.type), 1 - (c.\"notnull\" or c.pk > 0), c.pk > 0
             from sqlite_schema m join pragma_table_xinfo(m.name) c
             where m.type = 'table' and m.name not like 'sqlite%' and m.name not like 'cdc%'"
        }
        medlake_operational::Connection::MySql(_) => {
            "select table_name, column_name, case data_type
                 when 'bigint' then 'INTEGER' when 'varchar' then 'TEXT' when 'longtext' then 'TEXT'
                 when 'datetime' then 'TIMESTAMP' when 'bit' then 'BOOLEAN' when 'date' then 'DATE'
                 when 'double' then 'REAL' when 'longblob' then 'BLOB' else data_type end,
                 is_nullable = 'YES', column_key = 'PRI'
             from information_schema.columns
             where table_schema = database() and extra not like '%GENERATED%'"
        }
    };
    let mut columns: Vec<Column> = rows(&mut connection, sql).await;
    // What the programs that apply them keep for themselves.
    columns.retain(|column| !["_migration", "_sequence", "_progress"].contains(&column.0.as_str()));
    columns.sort();
    columns
}

#[tokio::test]
async fn a_file_and_a_server_have_the_same_tables() {
    let (file, server) = (App::start(On::Sqlite).await, App::start(On::MariaDb).await);
    for service in ["mall", "distribution", "chronic_care", "identity", "support"] {
        let of = |app: &App| match service {
            "mall" => app.services.mall().clone(),
            "distribution" => app.services.distribution().clone(),
            "chronic_care" => app.services.chronic_care().clone(),
            "identity" => app.services.identity().clone(),
            _ => app.services.support().clone(),
        };
        let expected = columns(&of(&file)).await;
        assert!(expected.len() > 15, "{expected:?}");
        assert_eq!(columns(&of(&server)).await, expected, "{service}");
    }
}

/// As in a database of before there was a table of them.
async fn ids_go_on_where_they_were_without_their_numbers(on: On) {
    let mut app = App::start(on).await;
    app.stock().await;
    let mut tx = app.services.mall().begin(crate::START).await.unwrap();
    assert!(run(&mut tx, "drop table _sequence").await);
    tx.commit().await.unwrap();
    app.reopen().await;
    let pharmacy = app.made("/mall/pharmacies", json!({"name": "滨江店", "region": "浙江"})).await;
    assert_eq!(pharmacy["pharmacy_id"], 2);
}
