//! Other engines open what we wrote, unpatched, and agree with us.

use std::path::Path;

use medlake_contract::{ColumnType, TableSchema};
use medlake_lake::{FormatVersion, Lake};
use serde_json::{Value, json};

use crate::{
    digest, engine_process, fixtures,
    histories::{Limits, all_types, common_types, live},
    parts,
};

#[tokio::test]
async fn pyiceberg_and_duckdb_read_rows_replaced_by_position() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts((0..1_000).map(|k| (k, k)), 1)).await;
    fixtures::write(&lake, &fixtures::upserts((500..1_500).map(|k| (k, 10 * k)), 2)).await;
    let amounts: i64 = (0..500).sum::<i64>() + (500..1_500).map(|k| 10 * k).sum::<i64>();

    let read = parts::python("read_lake.py", &[folder.path()]);
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    let table = &read["mall.orders"];
    assert_eq!(table["delete_files"], 1, "{table}");
    for engine in ["pyiceberg", "duckdb"] {
        assert_eq!(table[engine][0], 1_500, "{engine}: {table}");
        assert_eq!(table[engine][3], amounts, "{engine}: {table}");
    }
}

/// Conditions in the words of all engines.
fn filters(schema: &TableSchema) -> Vec<String> {
    let mut filters = Vec::new();
    for column in schema.columns() {
        let name = &column.name;
        if !name.is_ascii() {
            continue;
        }
        match column.ty {
            ColumnType::Int32 | ColumnType::Int64 => filters.push(format!("{name} >= 100")),
            ColumnType::Utf8 => filters.push(format!("{name} = '顾客 007'")),
            ColumnType::Date => filters.push(format!("{name} < '1970-01-04'")),
            _ => {}
        }
        if column.nullable && !column.ty.is_nested() {
            filters.push(format!("{name} is null"));
        }
    }
    filters.truncate(4);
    filters
}

/// The engines that can read such a table.
fn able(schema: &TableSchema, version: FormatVersion) -> Vec<&'static str> {
    let has = |kind: fn(&ColumnType) -> bool| schema.columns().iter().any(|c| kind(&c.ty));
    let has_time = has(|ty| *ty == ColumnType::Time);
    let mut able = vec!["pyiceberg"];
    // Of a table with many deletion vectors DuckDB 1.5.5 now and then applies one to another's data
    // file; `layout::engines_read_deletion_vectors` has it read a few.
    if version == FormatVersion::V2 {
        able.push("duckdb");
    }
    // ClickHouse knows no deletion vectors, takes a missing list, struct or map for an empty one, and
    // of a time of day whole seconds.
    if version == FormatVersion::V2 && !has(ColumnType::is_nested) && !has_time {
        able.push("clickhouse");
    }
    // Spark has no type for a time of day.
    if !has_time {
        able.push("spark");
    }
    able
}

/// What engines see of the lake's tables, and we see otherwise. `able` says which are asked of a table;
/// `filters`, under which conditions besides.
pub(crate) async fn disagreements(
    lake: &Lake,
    folder: &Path,
    able: impl Fn(&TableSchema) -> Vec<&'static str>,
    filters: impl Fn(&TableSchema) -> Vec<String>,
) -> Vec<String> {
    let view = lake.read_view();
    let mut tables = Vec::new();
    let mut ours = Vec::new();
    for info in view.tables() {
        let filters = filters(&info.schema);
        let name = info.schema.name().to_string();
        tables.push(json!({
            "name": name,
            "location": metadata_location(folder, &name).await,
            "columns": info.schema.columns(),
            "filters": filters,
            "engines": able(&info.schema),
        }));
        ours.push((name.clone(), digest::read(&view, &name, &filters).await));
    }
    let theirs = engine_process::ask(&json!({ "do": "read", "folder": folder, "tables": tables }));
    let mut wrong = Vec::new();
    for (name, ours) in ours {
        for (engine, theirs) in theirs[&name].as_object().unwrap() {
            if *theirs != ours {
                wrong.push(format!("{name} {engine}: {}", difference(&ours, theirs)));
            }
        }
    }
    wrong
}

/// Where the catalog says the table's metadata is.
pub(crate) async fn metadata_location(folder: &Path, table: &str) -> String {
    let url = format!("sqlite:{}", folder.join("catalog.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let sql = "select metadata_location from iceberg_tables \
               where table_namespace || '.' || table_name = ?";
    sqlx::query_scalar(sql).bind(table).fetch_one(&pool).await.unwrap()
}

/// What two readers see differently.
fn difference(ours: &Value, theirs: &Value) -> String {
    let (Value::Object(our_parts), Value::Object(their_parts)) = (ours, theirs) else {
        return format!("we see {ours}, they {theirs}");
    };
    let missing = Value::Null;
    let parts =
        our_parts.iter().map(|(key, our)| (key, our, their_parts.get(key).unwrap_or(&missing)));
    let differ = parts.filter(|(_, our, their)| our != their);
    let said = differ.map(|(key, our, their)| format!("{key}: {}", difference(our, their)));
    said.collect::<Vec<_>>().join("; ")
}

/// `MEDLAKE_LAKE_SEEDS` for more; a failure names its seed.
#[tokio::test]
async fn engines_agree_after_random_histories() {
    #[expect(clippy::disallowed_methods, reason = "the length of a test run")]
    let seeds = std::env::var("MEDLAKE_LAKE_SEEDS").ok().and_then(|n| n.parse().ok());
    let mut wrong = Vec::new();
    for seed in 0..seeds.unwrap_or(4) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            version: if seed % 4 < 2 { FormatVersion::V2 } else { FormatVersion::V3 },
            types: if seed % 2 == 0 { common_types } else { all_types },
        };
        let lake = live(folder.path(), seed, 60, limits).await;
        let able = |schema: &TableSchema| able(schema, limits.version);
        let found = disagreements(&lake, folder.path(), able, filters).await;
        wrong.extend(found.into_iter().map(|found| format!("seed {seed}: {found}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
