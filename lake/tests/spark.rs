//! Tables that Spark makes and changes in our catalog, beside ours, read here.

use std::path::Path;

use medlake_contract::TableSchema;
use medlake_lake::Lake;

use crate::{
    engine_process::spark,
    engines::{disagreements, metadata_location},
    fixtures,
};

/// Columns of every type Spark has, filled from a range of ids.
const COLUMNS: &str = "id bigint not null, shop string, amount int, price decimal(9,2), \
     total decimal(30,4), ratio float, score double, flag boolean, day date, at timestamp, \
     local_at timestamp_ntz, bytes binary, tags array<string>, \
     place struct<east: int, north: string>, notes map<string, int>";

fn rows(from: i64, to: i64) -> String {
    format!(
        "select id, if(id % 7 = 0, null, concat('店', id % 3)), cast(id * 3 - 100 as int), \
         cast(id / 8 as decimal(9,2)), cast(id as decimal(30,4)) * -1.0001, \
         cast(id / 4 as float), if(id % 11 = 0, double('NaN'), id / 2), id % 2 = 0, \
         date_add(date '1969-12-29', cast(id / 9 as int)), \
         timestamp '1969-12-31 20:00:00' + make_interval(0, 0, 0, 0, cast(id as int), 7, 0.5), \
         timestamp_ntz '2026-01-01 00:00:00' + make_interval(0, 0, 0, 0, cast(id as int)), \
         cast(cast(id as string) as binary), if(id % 5 = 0, null, array(concat('t', id), null)), \
         if(id % 3 = 0, null, named_struct('east', cast(id as int), 'north', concat('n', id))), \
         map('a', cast(id as int), 'b', null) from range({from}, {to})"
    )
}

/// Rows for the columns as they are in the end.
fn altered_rows(from: i64, to: i64) -> String {
    format!(
        "select array('x'), id, 'neu', concat('店', id % 2), 5000000000, null, null, id / 3, \
         true, date '1970-01-05', null, null, null, named_struct('east', id, 'north', 'x', 'up', \
         0.5), null, 's' from range({from}, {to})"
    )
}

/// Creates a table, fills it, changes and deletes some of its rows, and fills it further.
fn life(name: &str, layout: &str, properties: &str) -> Vec<String> {
    let name = format!("medlake.other.{name}");
    vec![
        format!(
            "create table {name} ({COLUMNS}) using iceberg {layout} tblproperties ({properties})"
        ),
        format!("insert into {name} {}", rows(0, 60)),
        format!("delete from {name} where id % 9 = 4"),
        format!("update {name} set amount = amount + 1, shop = '店9' where id % 10 = 3"),
        format!("insert into {name} {}", rows(60, 90)),
        format!("delete from {name} where id between 50 and 65"),
    ]
}

fn run(folder: &Path, statements: &[String]) {
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    spark(folder, &statements);
}

/// Whether Spark sees of all tables what we see.
async fn agree(lake: &Lake, folder: &Path) {
    let filters = |schema: &TableSchema| {
        let has = |name: &str| schema.columns().iter().any(|c| c.name == name);
        let all = ["shop = '店1'", "day < '1970-01-02'"];
        let all = all.into_iter().filter(|f| has(f.split(' ').next().unwrap()));
        all.map(str::to_owned).collect()
    };
    let wrong = disagreements(lake, folder, |_| vec!["spark"], filters).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn tables_made_by_spark_are_read_as_it_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts((0..100).map(|k| (k, k)), 1)).await;

    let merge = "'write.delete.mode'='merge-on-read', 'write.update.mode'='merge-on-read'";
    let by_all = "partitioned by (shop, days(at), bucket(2, id), truncate(100, amount))";
    let mut statements = vec!["create namespace medlake.other".to_owned()];
    for (name, layout, properties) in [
        ("merged", "", format!("'format-version'='2', {merge}")),
        (
            "merged_parts",
            "partitioned by (shop, months(at))",
            format!("'format-version'='2', {merge}"),
        ),
        ("copied", by_all, "'format-version'='2'".to_owned()),
        ("first", "partitioned by (shop, day)", "'format-version'='1'".to_owned()),
        ("vectors", "partitioned by (shop)", format!("'format-version'='3', {merge}")),
    ] {
        statements.extend(life(name, layout, &properties));
    }
    statements.push(format!(
        "create table medlake.other.gzip using iceberg tblproperties \
         ('write.parquet.compression-codec'='gzip') as {} limit 10",
        rows(0, 60)
    ));
    run(folder.path(), &statements);
    lake.refresh_foreign().await.unwrap();
    assert!(lake.read_view().left_out().is_empty(), "{:?}", lake.read_view().left_out());
    agree(&lake, folder.path()).await;

    // The tables change: columns, partitions, format.
    let mut statements = Vec::new();
    for name in ["merged", "first", "vectors"] {
        let name = format!("medlake.other.{name}");
        statements.extend([
            format!("alter table {name} add columns (note string after id, place.up double)"),
            format!("alter table {name} rename column amount to amount_fen"),
            format!("alter table {name} alter column amount_fen type bigint"),
            format!("alter table {name} alter column ratio type double"),
            format!("alter table {name} alter column price type decimal(12,2)"),
            format!("alter table {name} alter column place.east type bigint"),
            format!("alter table {name} drop column score"),
            format!("alter table {name} add column score string"),
            format!("alter table {name} alter column tags first"),
            format!("alter table {name} add partition field bucket(3, id)"),
            format!("delete from {name} where id % 9 = 7"),
            format!("insert into {name} {}", altered_rows(100, 130)),
            format!("delete from {name} where id in (101, 102)"),
        ]);
    }
    statements.extend([
        "alter table medlake.other.first drop partition field shop".to_owned(),
        format!("insert into medlake.other.first {}", altered_rows(200, 203)),
        "alter table medlake.other.first set tblproperties ('format-version'='2')".to_owned(),
        "delete from medlake.other.first where id = 103".to_owned(),
        "call medlake.system.rewrite_data_files('other.vectors')".to_owned(),
        "call medlake.system.rewrite_manifests('other.merged')".to_owned(),
    ]);
    run(folder.path(), &statements);
    assert_eq!(lake.refresh_foreign().await.unwrap(), 3);
    agree(&lake, folder.path()).await;
}

#[tokio::test]
async fn files_that_came_from_elsewhere_are_read_or_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    let hive = folder.path().join("hive");
    let hive = hive.display();
    let mut statements = vec![
        "create namespace medlake.other".to_owned(),
        // Files as Hive has them: without field ids, without the columns they are partitioned by.
        "drop table if exists hive_like".to_owned(),
        format!(
            "create table hive_like (n bigint, amount int, shop string, day date) using parquet \
             partitioned by (shop, day) location '{hive}'"
        ),
        "insert into hive_like select id, cast(id as int), if(id % 4 = 0, null, concat('店', id % 3)), \
         date_add(date '2026-01-01', cast(id % 5 as int)) from range(40)"
            .to_owned(),
        "create table medlake.other.added (n bigint, amount int, shop string, day date) using \
         iceberg partitioned by (shop, day) tblproperties ('write.delete.mode'='merge-on-read')"
            .to_owned(),
        format!(
            "call medlake.system.add_files(table => 'other.added', source_table => \
             '`parquet`.`{hive}`')"
        ),
        "alter table medlake.other.added rename column amount to amount_fen".to_owned(),
        "alter table medlake.other.added alter column amount_fen type bigint".to_owned(),
        "insert into medlake.other.added select id, id, '店1', date '2026-01-02' from range(40, 50)"
            .to_owned(),
        "delete from medlake.other.added where n in (1, 7, 41)".to_owned(),
        "drop table hive_like".to_owned(),
        // A partition of a name that is more than the metadata library's Avro takes.
        "create table medlake.other.named (id bigint, `渠道 1` string) using iceberg partitioned by \
         (`渠道 1`)"
            .to_owned(),
        "insert into medlake.other.named select id, concat('店', id % 3) from range(10)".to_owned(),
    ];
    for format in ["orc", "avro"] {
        let name = format!("medlake.other.{format}_files");
        statements.push(format!(
            "create table {name} (n int) using iceberg tblproperties ('write.format.default'='{format}')"
        ));
        statements.push(format!("insert into {name} values (1)"));
    }
    let later = "create table medlake.other.later (n int, x string) using iceberg tblproperties \
                 ('format-version'='3')";
    statements.push(later.to_owned());
    run(folder.path(), &statements);
    from_later_versions(folder.path()).await;
    lake.refresh_foreign().await.unwrap();
    let left_out = lake.read_view().left_out();
    let refused: Vec<String> = left_out.iter().map(|(_, why)| why.to_string()).collect();
    let uses =
        |table, feature| format!("table \"other.{table}\" uses {feature}, which is not supported");
    let expected = [
        uses("avro_files", "data files of format Avro"),
        uses("later_geometry", "type geometry(OGC:CRS84)"),
        uses("later_nanos", "type timestamp_ns in column \"x\""),
        uses("later_variant", "type variant"),
        uses("later_version", "format version 4"),
        uses("orc_files", "data files of format Orc"),
    ];
    assert_eq!(refused, expected);
    agree(&lake, folder.path()).await;
}

/// Puts tables into the catalog that are as `other.later`, but for something only later versions of
/// programs know.
async fn from_later_versions(folder: &Path) {
    let location = metadata_location(folder, "other.later").await;
    let metadata = std::fs::read_to_string(location.trim_start_matches("file:")).unwrap();
    let url = format!("sqlite:{}", folder.join("catalog.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    for (name, from, to) in [
        ("later_geometry", "\"string\"", "\"geometry(OGC:CRS84)\""),
        ("later_nanos", "\"string\"", "\"timestamp_ns\""),
        ("later_variant", "\"string\"", "\"variant\""),
        ("later_version", "\"format-version\":3", "\"format-version\":4"),
    ] {
        let changed = metadata.replace(from, to);
        assert_ne!(changed, metadata);
        let location = folder.join(format!("{name}.metadata.json"));
        std::fs::write(&location, changed).unwrap();
        let sql = "insert into iceberg_tables (catalog_name, table_namespace, table_name, \
                   metadata_location, iceberg_type) values ('medlake', 'other', ?, ?, 'TABLE')";
        let location = format!("file://{}", location.display());
        sqlx::query(sql).bind(name).bind(location).execute(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn spark_changes_our_tables_beside_us() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts((0..100).map(|k| (k, k)), 1)).await;
    let orders = "medlake.mall.orders";
    for (round, version) in [(0, 2), (1, 3)] {
        let change_id = 10 + 10 * u64::from(round == 1);
        let statements = [
            format!("alter table {orders} set tblproperties ('format-version'='{version}')"),
            format!("insert into {orders} values ({}, 'spark', 5)", 1_000 + round),
            format!("delete from {orders} where order_id % 10 = {round}"),
            format!("update {orders} set amount_fen = amount_fen + 1 where order_id % 10 = 5"),
        ];
        run(folder.path(), &statements);
        let changed = fixtures::upserts([(15, 7), (1_000, 8), (50 + round, 9)], change_id);
        fixtures::write(&lake, &changed).await;
        agree(&lake, folder.path()).await;
        run(folder.path(), &["call medlake.system.rewrite_data_files('mall.orders')".to_owned()]);
        fixtures::write(&lake, &fixtures::upserts([(25, 7)], change_id + 1)).await;
        agree(&lake, folder.path()).await;
    }
    let view = lake.read_view();
    assert_eq!(view.tables()[0].row_count, 83);
}
