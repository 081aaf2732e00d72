use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, FromRow};

use crate::{
    Capture, Database, Migration, Migrations, OperationalError, Storage, WriteTransaction,
};

const TABLES: &[Migration] = &[Migration {
    version: 1,
    sql: "create table thing (
              thing_id INTEGER primary key, name TEXT, flag BOOLEAN, ratio REAL, day DATE,
              at TIMESTAMP, bytes BLOB);
          create table \"odd \"\"name\" (a TEXT not null, b INTEGER not null, primary key (a, b)) without rowid;
          create table _internal (x INTEGER primary key);
          create table outbox_more (x INTEGER primary key);
          create table cdc_transaction (tx_id integer primary key autoincrement, committed_at TIMESTAMP not null);
          create table cdc_change (change_id integer primary key autoincrement, tx_id integer not null,
              table_name text not null, op text not null, before text, after text);",
}];

#[derive(Debug, FromRow)]
struct Change {
    tx_id: i64,
    table_name: String,
    op: String,
    before: Option<String>,
    after: Option<String>,
}

impl Change {
    fn images(&self) -> (Value, Value) {
        let read = |image: &Option<String>| {
            image.as_ref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
        };
        (read(&self.before), read(&self.after))
    }
}

async fn open(
    folder: &std::path::Path,
    migrations: &'static [Migration],
) -> Result<Database, OperationalError> {
    let migrations = Migrations { sqlite: migrations, mysql: &[] };
    Database::open(&Storage::files(folder), "test", migrations, Capture::On, Arc::new(|| ())).await
}

async fn run(tx: &mut WriteTransaction, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(tx.sqlite().unwrap()).await.unwrap();
}

/// What `sql` writes into the change table, as one transaction.
async fn changes_of(database: &Database, sql: &str) -> Vec<Change> {
    let mut tx = database.begin(5).await.unwrap();
    run(&mut tx, "delete from cdc_change").await;
    run(&mut tx, sql).await;
    let changes = sqlx::query_as("select * from cdc_change order by change_id")
        .fetch_all(tx.sqlite().unwrap())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    changes
}

#[tokio::test]
async fn an_image_has_every_column_with_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    let changes = changes_of(
        &database,
        "insert into thing values (-9223372036854775808, '顾客 \"引号\" \\ \u{1F48A}\n', 1, 0.1,
             '2026-11-21', 1795000000000000, x'00ff');
         insert into thing (thing_id) values (9223372036854775807);
         insert into thing (thing_id, name, flag, ratio, bytes) values (1, '[1]', 0, -1e50, x'');",
    )
    .await;
    let after: Vec<Value> = changes.iter().map(|c| c.images().1).collect();
    assert_eq!(
        after,
        [
            json!([
                i64::MIN,
                "顾客 \"引号\" \\ \u{1F48A}\n",
                1,
                "0.10000000000000001",
                "2026-11-21",
                1_795_000_000_000_000_i64,
                "00FF"
            ]),
            json!([i64::MAX, null, null, null, null, null, null]),
            json!([1, "[1]", 0, "-1.0000000000000001e+50", null, null, ""]),
        ]
    );
    assert!(changes.iter().all(|c| c.op == "c" && c.before.is_none() && c.table_name == "thing"));
    database.close().await;
}

#[tokio::test]
async fn every_double_reads_back_to_itself() {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    let seed = 3;
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    let mut values = vec![0.0, 1e50, -1e-50, 0.1 + 0.2, 1.0 / 3.0, 1e15 + 0.3, f64::INFINITY];
    values.extend(
        (0..2_000).map(|_| (rng.random::<f64>() - 0.5) * 10_f64.powi(rng.random_range(-45..=50))),
    );
    let mut tx = database.begin(5).await.unwrap();
    for value in &values {
        sqlx::query("insert into thing (ratio) values (?1)")
            .bind(value)
            .execute(tx.sqlite().unwrap())
            .await
            .unwrap();
    }
    let images: Vec<String> = sqlx::query_scalar("select after from cdc_change order by change_id")
        .fetch_all(tx.sqlite().unwrap())
        .await
        .unwrap();
    for (value, image) in values.iter().zip(images) {
        let image: Value = serde_json::from_str(&image).unwrap();
        let read: f64 = image[3].as_str().unwrap().parse().unwrap();
        assert_eq!(read.to_bits(), value.to_bits(), "seed {seed}: {value:e} {image}");
    }
}

#[tokio::test]
async fn a_double_that_sqlite_cannot_print_exactly_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    for value in [1e51, -1e300, f64::MAX, 1e-51, f64::MIN_POSITIVE, 5e-324] {
        let mut tx = database.begin(5).await.unwrap();
        let refused = sqlx::query("insert into thing (ratio) values (?1)")
            .bind(value)
            .execute(tx.sqlite().unwrap())
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("thing.ratio"), "{refused}");
    }
}

#[tokio::test]
async fn an_update_has_both_images_and_one_that_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    changes_of(&database, "insert into thing (thing_id, name, ratio) values (1, 'a', 0.5)").await;

    let changes = changes_of(&database, "update thing set name = 'b', flag = 1").await;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].op, "u");
    assert_eq!(
        changes[0].images(),
        (
            json!([1, "a", null, "0.5", null, null, null]),
            json!([1, "b", 1, "0.5", null, null, null])
        )
    );

    assert!(
        changes_of(&database, "update thing set name = 'b', flag = 1, bytes = null")
            .await
            .is_empty()
    );
    // From null and to null are changes.
    assert_eq!(changes_of(&database, "update thing set bytes = x''").await.len(), 1);
    assert_eq!(changes_of(&database, "update thing set bytes = null").await.len(), 1);

    let key = changes_of(&database, "update thing set thing_id = 2").await;
    let (before, after) = key[0].images();
    assert_eq!((&before[0], &after[0]), (&json!(1), &json!(2)));

    let gone = changes_of(&database, "delete from thing").await;
    assert_eq!((gone[0].op.as_str(), gone[0].after.is_none()), ("d", true));
    assert_eq!(gone[0].images().0[0], json!(2));
}

#[tokio::test]
async fn a_replaced_row_leaves_a_delete() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    changes_of(&database, "insert into thing (thing_id, name) values (1, 'a')").await;
    let changes =
        changes_of(&database, "insert or replace into thing (thing_id, name) values (1, 'b')")
            .await;
    assert_eq!(changes.iter().map(|c| c.op.as_str()).collect::<String>(), "dc");
}

#[tokio::test]
async fn only_the_services_own_tables_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    let changes = changes_of(
        &database,
        "insert into _internal values (1); insert into outbox_more values (1);
         insert into \"odd \"\"name\" values ('k', 1); update \"odd \"\"name\" set b = 2;",
    )
    .await;
    let told: Vec<_> = changes.iter().map(|c| (c.table_name.as_str(), c.op.as_str())).collect();
    assert_eq!(told, [("odd \"name", "c"), ("odd \"name", "u")]);
}

#[tokio::test]
async fn transactions_are_whole_and_in_the_order_of_their_commits() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8_i64 {
        let database = database.clone();
        tasks.spawn(async move {
            for round in 0..20 {
                let mut tx = database.begin(writer).await.unwrap();
                for part in 0..3 {
                    sqlx::query("insert into thing (name) values (?1)")
                        .bind(format!("{writer}.{round}.{part}"))
                        .execute(tx.sqlite().unwrap())
                        .await
                        .unwrap();
                    tokio::task::yield_now().await;
                }
                // Every third one is undone, half of them by being dropped.
                match round % 6 {
                    0 => tx.rollback().await.unwrap(),
                    3 => drop(tx),
                    _ => tx.commit().await.unwrap(),
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let changes: Vec<Change> = sqlx::query_as("select * from cdc_change order by change_id")
        .fetch_all(database.read().await.unwrap().sqlite().unwrap())
        .await
        .unwrap();
    let expected = 8 * (0..20).filter(|round| round % 3 != 0).count() * 3;
    assert_eq!(changes.len(), expected);
    assert!(changes.is_sorted_by_key(|c| c.tx_id));
    for whole in changes.chunk_by(|a, b| a.tx_id == b.tx_id) {
        let names: Vec<String> =
            whole.iter().map(|c| c.images().1[1].as_str().unwrap().to_owned()).collect();
        let first = names[0].strip_suffix(".0").unwrap();
        assert_eq!(names, [format!("{first}.0"), format!("{first}.1"), format!("{first}.2")]);
    }
}

#[tokio::test]
async fn triggers_follow_a_migration_and_stay_when_nothing_changed() {
    const MORE: &[Migration] = &[
        TABLES[0],
        Migration {
            version: 2,
            sql: "alter table thing add column more TEXT; create table later (x INTEGER primary key);",
        },
    ];
    let folder = tempfile::tempdir().unwrap();
    let triggers = |database: Database| async move {
        let found: Vec<(String, String)> = sqlx::query_as(
            "select name, sql from sqlite_schema where type = 'trigger' order by rowid",
        )
        .fetch_all(database.read().await.unwrap().sqlite().unwrap())
        .await
        .unwrap();
        database.close().await;
        found
    };
    let first = triggers(open(folder.path(), TABLES).await.unwrap()).await;
    assert_eq!(first.len(), 6);
    assert_eq!(triggers(open(folder.path(), TABLES).await.unwrap()).await, first);

    let database = open(folder.path(), MORE).await.unwrap();
    let changes = changes_of(
        &database,
        "insert into thing (thing_id, more) values (1, 'm'); insert into later values (7)",
    )
    .await;
    assert_eq!(changes[0].images().1, json!([1, null, null, null, null, null, null, "m"]));
    assert_eq!((changes[1].table_name.as_str(), changes[1].images().1), ("later", json!([7])));
    database.close().await;

    // Back to the older program: it must not write where it does not know the tables.
    let refused = open(folder.path(), TABLES).await.unwrap_err();
    assert_eq!(refused.kind(), medlake_contract::Kind::Corrupt);
    assert!(refused.to_string().contains("newer program"), "{refused}");
}

#[tokio::test]
async fn an_edited_migration_and_an_unknown_type_are_refused() {
    const EDITED: &[Migration] =
        &[Migration { version: 1, sql: "create table thing (thing_id INTEGER primary key)" }];
    const UNKNOWN: &[Migration] = &[Migration {
        version: 1,
        sql: "create table price (price_id INTEGER primary key, amount DECIMAL(10,2))",
    }];
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), TABLES).await.unwrap().close().await;
    let refused = open(folder.path(), EDITED).await.unwrap_err().to_string();
    assert!(refused.contains("migration 1") && refused.contains("edited"), "{refused}");

    let other = tempfile::tempdir().unwrap();
    let refused = open(other.path(), UNKNOWN).await.unwrap_err().to_string();
    assert!(refused.contains("price.amount") && refused.contains("DECIMAL"), "{refused}");
}

/// What stands in the change table of what became of tables, without the changes before.
async fn marks(database: &Database) -> Vec<Value> {
    let marks: Vec<String> = sqlx::query_scalar(
        "select after from cdc_change where table_name = 'cdc_schema' order by change_id",
    )
    .fetch_all(database.read().await.unwrap().sqlite().unwrap())
    .await
    .unwrap();
    marks.iter().map(|mark| serde_json::from_str(mark).unwrap()).collect()
}

#[tokio::test]
async fn what_a_migration_makes_of_a_table_stands_where_it_happened() {
    const FIRST: &[Migration] = &[Migration {
        version: 1,
        sql: "create table a (id INTEGER primary key, x TEXT, y TEXT, z TEXT);
              create table b (id INTEGER primary key, x TEXT);
              create table gone (id INTEGER primary key);
              create table cdc_transaction (tx_id integer primary key autoincrement, committed_at TIMESTAMP not null);
              create table cdc_change (change_id integer primary key autoincrement, tx_id integer not null,
                  table_name text not null, op text not null, before text, after text);",
    }];
    const DROPPED: &[Migration] = &[
        FIRST[0],
        Migration {
            version: 2,
            sql: "alter table a drop column y; alter table a add column more INTEGER;
                  drop table gone; create table late (id INTEGER primary key);",
        },
    ];
    const WRITTEN: &[Migration] =
        &[DROPPED[0], DROPPED[1], Migration { version: 3, sql: "update b set x = 'other'" }];
    const DEFAULT: &[Migration] = &[
        WRITTEN[0],
        WRITTEN[1],
        WRITTEN[2],
        Migration { version: 4, sql: "alter table late add column n INTEGER not null default 3" },
    ];
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), FIRST).await.unwrap();
    assert_eq!(marks(&database).await, Vec::<Value>::new(), "they were never otherwise");
    let mut tx = database.begin(7).await.unwrap();
    run(&mut tx, "insert into a values (1, 'x', 'y', 'z'); insert into b values (1, 'x')").await;
    tx.commit().await.unwrap();
    database.close().await;

    let database = open(folder.path(), DROPPED).await.unwrap();
    let id = json!(["id", "INTEGER", false, 1]);
    let text = |name| json!([name, "TEXT", false, 0]);
    let a = json!([id, text("x"), text("z"), ["more", "INTEGER", false, 0]]);
    let expected = [
        // Another column came: it may be the one that went, under another name.
        json!(["a", [id, text("x"), text("y"), text("z")], a, 1]),
        json!(["late", null, [id], 0]),
        json!(["gone", [id], null, 0]),
    ];
    assert_eq!(marks(&database).await, expected);
    let mut tx = database.begin(8).await.unwrap();
    run(&mut tx, "update a set z = 'new'").await;
    tx.commit().await.unwrap();
    let all: Vec<(i64, i64, String)> =
        sqlx::query_as("select change_id, tx_id, table_name from cdc_change order by change_id")
            .fetch_all(database.read().await.unwrap().sqlite().unwrap())
            .await
            .unwrap();
    let names: Vec<&str> = all.iter().map(|(_, _, name)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "cdc_schema", "cdc_schema", "cdc_schema", "a"]);
    assert_eq!(all.iter().map(|(_, tx, _)| *tx).collect::<Vec<_>>(), [1, 1, 2, 2, 2, 3]);
    let noted: Vec<(i64, String)> =
        sqlx::query_as("select change_id, table_name from cdc_schema order by schema_id")
            .fetch_all(database.read().await.unwrap().sqlite().unwrap())
            .await
            .unwrap();
    let noted: Vec<_> = noted.iter().map(|(at, name)| (*at, name.as_str())).collect();
    assert_eq!(noted, [(0, "a"), (0, "b"), (0, "gone"), (3, "a"), (4, "late"), (5, "gone")]);
    database.close().await;
    // Nothing becomes of them when nothing is migrated.
    let database = open(folder.path(), DROPPED).await.unwrap();
    assert_eq!(marks(&database).await.len(), 3);
    database.close().await;

    let database = open(folder.path(), WRITTEN).await.unwrap();
    let again: Vec<_> =
        marks(&database).await[3..].iter().map(|m| (m[0].clone(), m[3].clone())).collect();
    let all = ["a", "b", "late"].map(|table| (json!(table), json!(1)));
    assert_eq!(again, all, "no trigger saw which rows were written");
    database.close().await;

    let database = open(folder.path(), DEFAULT).await.unwrap();
    let marks = marks(&database).await;
    assert_eq!((marks.len(), &marks[6][0], &marks[6][3]), (7, &json!("late"), &json!(1)));
}

#[tokio::test]
async fn the_history_of_an_older_database_begins_before_it_is_migrated() {
    const NEXT: &[Migration] =
        &[TABLES[0], Migration { version: 2, sql: "alter table thing drop column flag" }];
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), TABLES).await.unwrap();
    let mut tx = database.begin(1).await.unwrap();
    run(&mut tx, "drop table cdc_schema; insert into thing (thing_id, flag) values (1, 1)").await;
    tx.commit().await.unwrap();
    database.close().await;
    let database = open(folder.path(), NEXT).await.unwrap();
    let marks = marks(&database).await;
    assert_eq!(marks.len(), 1);
    let names = |columns: &Value| -> Vec<String> {
        columns.as_array().unwrap().iter().map(|c| c[0].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&marks[0][1]), ["thing_id", "name", "flag", "ratio", "day", "at", "bytes"]);
    assert_eq!(names(&marks[0][2]), ["thing_id", "name", "ratio", "day", "at", "bytes"]);
    assert_eq!(marks[0][3], 0, "what is left is what the changes say");
}
